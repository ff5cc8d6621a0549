//! The last response of a connection, to a message that hyper has not seen.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw_response;
use super::scanned_io::ScannedIo;
use super::transport::RecordedIo;
use super::worker::state::Worker;
use crate::downstream::Downstream;
use crate::policy::refusal::Refusal;
use crate::policy::target::OTHER;
use crate::response::own;
use crate::response::record::{RequestRecord, new_request_id};

/// Responds to a message that hyper has not received, and closes the connection.
pub(super) async fn refuse(
    worker: &Worker,
    downstream: &Rc<Downstream>,
    scanned: ScannedIo,
    refusal: &Refusal,
) {
    let now = Instant::now();
    let gateway = worker.gateway();
    let method = scanned.method().unwrap_or(OTHER);
    let id = new_request_id();
    let (recorder, settings) = (gateway.recorder(), gateway.settings());
    let mut record = RequestRecord::new(recorder, settings, downstream, &method, id.clone(), now);
    let mut response = own::refuse(refusal, id);
    gateway.add_hsts(downstream, response.headers_mut());
    record.note_refusal(refusal, response.status(), now);
    let bytes = raw_response::encode(&response, method == Method::HEAD);
    let mut transport = scanned.into_transport();
    let sent = async {
        transport.write_all(&bytes).await?;
        if method != Method::HEAD {
            record.add_sent(response.body().len());
        }
        record.mark_complete();
        drop(record);
        io::Result::Ok(())
    };
    let time_limit = settings.limits.header_timeout;
    if let Ok(Ok(())) = tokio::time::timeout(time_limit, sent).await {
        linger(transport, time_limit).await;
    }
}

/// Records a connection that was closed because of a protocol error of its client, as if that were a request.
pub(super) fn note_refused(worker: &Worker, downstream: &Rc<Downstream>, refusal: &Refusal) {
    let now = Instant::now();
    let gateway = worker.gateway();
    let (recorder, settings) = (gateway.recorder(), gateway.settings());
    // A record of its own, beside those of current requests.
    let stream = Downstream::stream(downstream, now);
    let mut record = RequestRecord::new(recorder, settings, &stream, &OTHER, new_request_id(), now);
    record.note_refusal(refusal, own::status(refusal), now);
    record.mark_complete();
}

/// Closes a connection on which the client may still be sending, such as the rest of a body. The kernel resets a socket
/// that is closed with unread bytes, and the response would be lost. Therefore received bytes are discarded until the
/// client closes its side, for at most `time_limit`.
pub(super) async fn linger(mut transport: RecordedIo, time_limit: Duration) {
    let leftover = async {
        transport.shutdown().await?;
        let mut buffer = vec![0; 16 * 1024];
        while transport.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(time_limit, leftover).await;
}
