//! Where decisions meet sockets, threads and clocks. [`ReplicationServer`] feeds standbys from a node's log and keeps
//! their [`Registry`]; [`StandbyClient`] keeps a node fed, from whichever source the planner names. A node that cascades
//! runs both.

mod admission;
mod archive;
mod client;
mod client_status;
mod confirm;
mod conversation;
mod flow;
mod identify;
mod peer;
mod promote;
mod registry;
mod server;
mod slots;
mod socket;
mod target;

pub use admission::NodeAdmission;
pub use client::{ClientConfig, StandbyClient};
pub use client_status::{ClientState, ClientStatus};
pub use confirm::NodeConfirmations;
pub use identify::identify;
pub use peer::PeerSource;
pub use promote::{PromotionActs, PromotionError, promote};
pub use registry::{
    ConnectionId, Registry, RegistryConfig, StageLag, StandbyConsumer, StandbyReport, StandbyState, ThrottleReport,
};
pub use server::{ReplicationServer, ServerConfig};
pub use slots::SlotFile;
pub use target::{BaseBackups, StandbyTarget};
