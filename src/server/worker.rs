//! One worker: a thread with its own runtime, connections, pools and gateway.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use tokio::runtime::{self, LocalOptions};
use tokio::sync::mpsc;

use self::state::{Worker, WorkerState};
use super::configuration::Configuration;
use super::connection;
use super::dispatcher::{WorkerCommand, WorkerHandle};
use super::rejected::RejectedConnections;
use crate::downstream::state::Shutdown;
use crate::telemetry::access::LineBatch;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::unmapped::WorkerUncovered;
use crate::usage::writer::Usage;

pub(super) mod state;
mod sweep;

/// The parts of a worker, in the thread that starts it.
pub(super) struct WorkerBuilder {
    pub(super) index: usize,
    pub(super) metrics: Arc<Metrics>,
    pub(super) configuration: Arc<Configuration>,
    pub(super) lines: LineBatch,
    /// Whether a drain ends at once.
    pub(super) stop_now: Arc<AtomicBool>,
    pub(super) usage: Arc<Usage>,
    pub(super) uncovered: WorkerUncovered,
}

impl WorkerBuilder {
    /// Starts the worker's thread, which returns the number of connections that it had to cut.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be created.
    pub(super) fn start(self) -> io::Result<(WorkerHandle, JoinHandle<usize>)> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        let handle = WorkerHandle { load: Arc::clone(&load), commands };
        // The runtime cannot leave its thread, so the thread reports whether it could create one.
        let (started, is_started) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(format!("worker-{}", self.index)).spawn(move || {
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(self.run(receiver, load))
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    0
                }
            }
        })?;
        is_started.recv().map_err(io::Error::other)??;
        Ok((handle, thread))
    }

    fn build(self, load: Arc<AtomicUsize>) -> Rc<Worker> {
        let metrics = self.metrics.worker(self.index);
        let usage = self.usage.worker(self.index);
        let lines = Rc::new(self.lines);
        let state = WorkerState::new(&self.configuration, &lines, &metrics, &usage, &self.uncovered, None);
        Rc::new(Worker {
            state: RefCell::new(Rc::new(state)),
            rejected: RefCell::new(RejectedConnections::new(metrics.clone())),
            metrics,
            connections: RefCell::default(),
            counted: Default::default(),
            load,
            usage,
            uncovered: self.uncovered,
            lines,
        })
    }

    /// Executes commands until their sender is dropped, then waits until the connections have ended, for at most
    /// `drain_timeout`. Returns the number of connections that were cut.
    async fn run(
        self,
        mut commands: mpsc::UnboundedReceiver<WorkerCommand>,
        load: Arc<AtomicUsize>,
    ) -> usize {
        let stop_now = Arc::clone(&self.stop_now);
        let worker = self.build(load);
        let sweep = tokio::task::spawn_local(Rc::clone(&worker).sweep());
        let usage = tokio::task::spawn_local(Rc::clone(&worker.usage).run());
        let lines = tokio::task::spawn_local(Rc::clone(&worker.lines).run());
        while let Some(command) = commands.recv().await {
            match command {
                WorkerCommand::Serve(mut admitted) => {
                    let worker = Rc::clone(&worker);
                    tokio::task::spawn_local(async move {
                        // Dropped after the load: the connections of clients are all that have no slot.
                        let _slot = admitted.slot.take();
                        let _load = Load(&worker.load);
                        connection::serve(Rc::clone(&worker), admitted).await;
                    });
                }
                WorkerCommand::AnnounceShutdown => worker.shut_down_all(|_| Shutdown::Announced),
                WorkerCommand::Apply { configuration, applied } => {
                    worker.apply(&configuration);
                    drop(applied);
                }
            }
        }
        worker.drain(&stop_now).await;
        sweep.abort();
        usage.abort();
        lines.abort();
        worker.lines.end();
        worker.load.load(Ordering::Relaxed)
    }
}

/// Counts a connection as load of its worker until it is dropped.
struct Load<'a>(&'a AtomicUsize);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
