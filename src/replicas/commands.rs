//! A connection for commands.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisConnectionInfo, RedisError, ServerErrorKind,
};
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;

use super::bounded::{BoundedStream, ReadBudget};
use crate::client::{ConnectError, Connector, OfferedProtocols};
use crate::config::settings;

/// A connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("no connection to Redis")]
    Connect(#[from] ConnectError),
    #[error("Redis: cannot log in")]
    Login(#[from] RedisError),
}

/// A connection that runs one command at a time.
pub(super) struct Commands {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    budget: ReadBudget,
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Commands {
    /// Connects and logs in. Each response must arrive within `timeout`.
    pub(super) async fn open(
        connector: &Connector,
        settings: &settings::Redis,
        timeout: Duration,
    ) -> Result<Self, OpenError> {
        let budget = ReadBudget::default();
        let stream = BoundedStream::new(connector.connect(OfferedProtocols::Http1).await?, budget.clone());
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(timeout));
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&info(settings), stream, config).await?;
        Ok(Self { connection, driver: tokio::task::spawn_local(driver), budget })
    }

    /// Runs a command.
    pub(super) async fn run<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        self.budget.reset();
        command.query_async(&mut self.connection).await
    }
}

/// User, password and database.
pub(super) fn info(settings: &settings::Redis) -> RedisConnectionInfo {
    let mut info = RedisConnectionInfo::default()
        .set_db(settings.database.into())
        .set_lib_name("stockaj-gateway", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &settings.user {
        info = info.set_username(user);
    }
    if let Some(password) = &settings.password {
        info = info.set_password(password.expose_secret());
    }
    info
}

/// Whether Redis rejected the command itself, rather than being temporarily unable to execute it.
pub(super) fn is_command_error(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown,
        ) => false,
        ErrorKind::Server(_) | ErrorKind::Extension => true,
        _ => false,
    }
}
