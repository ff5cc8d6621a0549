use std::net::Ipv4Addr;
use std::num::NonZeroUsize;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::config::settings::{ClientTls, Destination};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn locally<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap().block_on(future)
}

/// An idle connection is closed as soon as its address is removed from DNS, and a connection in use after its response.
#[test]
fn address_removed_from_dns_is_not_reused() {
    locally(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let destination = Destination::Tcp { host: "127.0.0.1".into(), port, tls: false };
        let time_limit = Duration::from_secs(5);
        let connector = Connector::new(&destination, &ClientTls::default(), time_limit).unwrap();
        let pool = Pool::new(Arc::new(connector), Duration::from_secs(60), None, time_limit);
        let kept = || pool.take_idle(Instant::now(), None);

        for (addresses, stays) in [(vec![HERE, ELSEWHERE], true), (vec![ELSEWHERE], false)] {
            pool.addresses.take();
            pool.connect(None).await.unwrap().keep_unused();
            pool.set_addresses(Addresses { known: addresses, unanswered: None });
            assert_eq!(pool.stats().idle, usize::from(stays));
            assert_eq!(kept().is_some(), stays);
        }

        pool.addresses.take();
        let in_use = pool.connect(None).await.unwrap();
        pool.set_addresses(Addresses { known: vec![ELSEWHERE], unanswered: None });
        assert_eq!(pool.stats().active, 1);
        in_use.keep_unused();
        assert!(kept().is_none());

        // A connection to an address that the name has since the last lookup is kept.
        let new = pool.connect(None).await.unwrap();
        new.keep_unused();
        assert!(kept().is_some());
    });
}

/// The addresses of a family whose query failed are unknown, so its connections are kept.
#[test]
fn connection_of_an_unanswered_family_is_kept() {
    use crate::client::resolve::Family;
    locally(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let destination = Destination::Tcp { host: "127.0.0.1".into(), port, tls: false };
        let time_limit = Duration::from_secs(5);
        let connector = Connector::new(&destination, &ClientTls::default(), time_limit).unwrap();
        let pool = Pool::new(Arc::new(connector), Duration::from_secs(60), None, time_limit);
        let v6 = "2001:db8::1".parse().unwrap();
        for (unanswered, stays) in [(Some(Family::V4), true), (Some(Family::V6), false)] {
            pool.addresses.take();
            pool.connect(None).await.unwrap().keep_unused();
            pool.set_addresses(Addresses { known: vec![v6], unanswered });
            assert_eq!(pool.stats().idle, usize::from(stays), "{unanswered:?}");
        }
    });
}

/// An idle HTTP/2 connection is closed if the connection bound blocks a request that needs HTTP/1.1.
#[test]
fn idle_http2_connection_makes_room_for_http1() {
    locally(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            tokio::task::spawn_local(async move { while connection.accept().await.is_some() {} });
            let _silent = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
        });
        let destination = Destination::Tcp { host: "127.0.0.1".into(), port, tls: false };
        let time_limit = Duration::from_secs(2);
        let connector = Connector::new(&destination, &ClientTls::default(), time_limit).unwrap();
        let connector = Arc::new(connector.with_http2(Duration::from_secs(10)));
        let bound =
            Some(ConnectionBound::new(BoundSettings::of_connections(NonZeroUsize::MIN, time_limit), 1));
        let pool = Pool::new(connector, Duration::from_secs(60), bound, time_limit);

        let stream = pool.connect(None).await.unwrap();
        assert!(stream.is_stream());
        // A connection in use is awaited instead.
        let began = Instant::now();
        let (alone, ()) = tokio::join!(pool.connect_http1(None), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(stream);
        });
        let alone = alone.unwrap();
        assert!(!alone.is_stream());
        assert!((Duration::from_millis(100)..time_limit).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(pool.stats().active + pool.stats().idle, 1, "the HTTP/2 connection is closed");
    });
}
