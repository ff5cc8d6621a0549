use std::net::Ipv4Addr;

use bytes::Bytes;
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::config::settings::{ClientTls, Destination};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn locally<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap().block_on(future)
}

/// A connection that waits is closed as soon as its address is none of the name's, and one that is in use when it has
/// ended what it carries.
#[test]
fn an_address_that_the_name_no_longer_has_is_not_used_again() {
    locally(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let destination = Destination::Tcp { host: "127.0.0.1".into(), port, tls: false };
        let patience = Duration::from_secs(5);
        let connector = Connector::new(&destination, &ClientTls::default(), patience).unwrap();
        let pool = Pool::<Full<Bytes>>::new(Arc::new(connector), Duration::from_secs(60), None, patience);
        let kept = || pool.take_idle(Instant::now());

        for (addresses, stays) in [(vec![HERE, ELSEWHERE], true), (vec![ELSEWHERE], false)] {
            pool.addresses.take();
            pool.connect().await.unwrap().keep_unused().await;
            pool.keep_only(addresses);
            assert_eq!(pool.census().idle, usize::from(stays));
            assert_eq!(kept().is_some(), stays);
        }

        pool.addresses.take();
        let in_use = pool.connect().await.unwrap();
        pool.keep_only(vec![ELSEWHERE]);
        assert_eq!(pool.census().active, 1);
        in_use.keep_unused().await;
        assert!(kept().is_none());

        // What the name has since it was looked up last is kept.
        let new = pool.connect().await.unwrap();
        new.keep_unused().await;
        assert!(kept().is_some());
    });
}
