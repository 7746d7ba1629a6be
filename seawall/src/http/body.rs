//! Answers: a body that is there at once, or lines that come as they are made.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use super::api::Problem;
use crate::failure::Failure;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// All of it; none once it was handed over.
    Whole(Option<Bytes>),
    /// Until the other end is dropped.
    Lines(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(lines) => lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Lines(_) => SizeHint::default(),
        }
    }
}

pub(super) fn bytes(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Answer> {
    let body = body.into();
    let mut response = Response::new(Answer::Whole((!body.is_empty()).then_some(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

pub(super) fn json<T: Serialize>(status: StatusCode, document: &T) -> Response<Answer> {
    match serde_json::to_vec(document) {
        Ok(body) => bytes(status, "application/json", body),
        Err(_) => bytes(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the answer cannot be written as JSON\n"),
    }
}

pub(super) fn lines(lines: mpsc::Receiver<Bytes>) -> Response<Answer> {
    let mut response = bytes(StatusCode::OK, "application/x-ndjson", "");
    *response.body_mut() = Answer::Lines(lines);
    response
}

pub(super) fn problem(problem: &Problem) -> Response<Answer> {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, problem);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.retry_after_seconds
        && let Ok(value) = HeaderValue::from_str(&(seconds.ceil().clamp(1.0, 3600.0) as u64).to_string())
    {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

pub(super) fn failure(failure: &Failure) -> Response<Answer> {
    problem(&Problem::from(failure))
}
