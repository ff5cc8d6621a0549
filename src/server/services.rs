//! The services of the process that all workers share.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::configuration::Configuration;
use crate::admin;
use crate::config::settings::Settings;
use crate::replicas::Replicas;
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::unmapped::UncoveredRequests;
use crate::tokens::blocker::Blocker;
use crate::tokens::blocklist::file::BlockFile;
use crate::tokens::revoker::Revoker;
use crate::traces::TraceExporter;
use crate::usage::quota::QuotaWriter;
use crate::usage::writer::Usage;

/// The services of the process.
pub(super) struct Services {
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: log::Control,
    pub(super) usage: Arc<Usage>,
    pub(super) uncovered: Arc<UncoveredRequests>,
    pub(super) revoker: Arc<Revoker>,
    pub(super) blocker: Arc<Blocker>,
    /// The current settings, which the admin listener reads.
    pub(super) settings: Arc<ArcSwap<Settings>>,
    traces: TraceExporter,
    quotas: QuotaWriter,
    pub(super) replicas: Replicas,
}

impl Services {
    /// The services for the first configuration, started.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(super) fn start(
        configuration: &Configuration,
        metrics: Arc<Metrics>,
        usage: Arc<Usage>,
        log: log::Control,
        block_file: BlockFile,
    ) -> io::Result<Self> {
        let revoker = Arc::new(Revoker::new(Arc::clone(&configuration.shared), Arc::clone(&metrics)));
        let blocks = Arc::clone(configuration.shared.cache.blocks());
        let blocker = Blocker::new(blocks, block_file, Arc::clone(&revoker), Arc::clone(&metrics));
        let settings = &configuration.settings;
        if settings.admin.token.is_some() || settings.redis.is_some() {
            blocker.probe_file();
        }
        let blocker = Arc::new(blocker);
        let services = Self {
            settings: Arc::new(ArcSwap::new(Arc::clone(&configuration.settings))),
            uncovered: UncoveredRequests::new(configuration.settings.threads),
            traces: TraceExporter::new(Arc::clone(&metrics)),
            quotas: QuotaWriter::new(Arc::clone(&metrics), configuration.limiter.quotas()),
            replicas: Replicas::new(Arc::clone(&revoker), Arc::clone(&blocker), Arc::clone(&metrics)),
            revoker,
            blocker,
            metrics,
            log,
            usage,
        };
        services.apply(configuration)?;
        Ok(services)
    }

    /// Applies a configuration to every service. A service whose thread cannot be started is off; the log has the cause.
    ///
    /// # Errors
    /// The first such failure.
    pub(super) fn apply(&self, configuration: &Configuration) -> io::Result<()> {
        let Configuration { settings, resources, shared, limiter, .. } = configuration;
        self.log.set_level(settings.log.level);
        self.settings.store(Arc::clone(settings));
        self.revoker.set_shared(Arc::clone(shared));
        self.blocker.configure(&settings.blocked);
        let mut applied = Ok(());
        for (service, result) in [
            ("traces", self.traces.apply(resources.traces.as_ref())),
            ("usage", self.usage.apply(settings.usage.as_ref())),
            ("quota", self.quotas.apply(settings.quota.as_ref())),
            ("redis", self.replicas.apply(resources.redis.as_ref(), limiter.tokens.as_ref())),
        ] {
            if let Err(error) = result {
                tracing::error!(service, error = &error as &dyn std::error::Error, "cannot start a service");
                applied = applied.and(Err(error));
            }
        }
        applied
    }

    /// Stops the services after the workers have ended. If `immediately`, spans that were not sent are dropped.
    pub(super) fn shutdown(&self, admin: admin::Handle, immediately: bool) {
        self.traces.stop(immediately);
        self.usage.stop();
        self.quotas.stop();
        tracing::info!("drained");
        admin.stop();
        // After the last revocation by the admin listener.
        self.replicas.stop();
    }
}
