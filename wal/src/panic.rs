//! Panics of threads that others wait for. One that just ended would leave them waiting; what it met is made an error instead.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

/// Does what is needed for `work`, and says so if it panicked.
///
/// # Errors
/// [`Error::Panicked`] if it did. What it was changing may be half done, so whoever calls this stops using it.
pub fn caught<T>(work: &'static str, act: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| {
        let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Error::Panicked { work, said: said.into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_told() {
        assert_eq!(caught("counts", || 3).unwrap(), 3);
        let error = caught("counts", || panic!("there are {} of them", 4)).unwrap_err();
        assert!(error.to_string().contains("counts") && error.to_string().contains("there are 4 of them"), "{error}");
        assert!(caught("counts", || panic!("none")).unwrap_err().to_string().contains("none"));
    }
}
