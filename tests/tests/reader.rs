//! Reading a log of a cluster: whoever opens a reading at one server while another keeps it reads at once.
#![allow(clippy::unwrap_used, clippy::panic)]

use holdline::broker::connection;
use holdline_proto::topology::{Role, Stream, Topology};
use holdline_stage::admin::Health;
use holdline_stage::bus::Bus;
use holdline_stage::pipe::Reader;
use holdline_stage::run::Tasks;
use holdline_stage::settings::NatsTls;
use holdline_tests::cluster::Cluster;
use holdline_tests::programs::scratch;

/// At each server. One in 300 found the server not to know of it yet, before a reading was pulled again.
const READINGS: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_begins_at_whichever_server_it_is_opened() {
    let folder = scratch("reader");
    let cluster = Cluster::start(&folder, 3);
    cluster.provision(4).await;
    let subject = Topology::default().event(0);
    let gateway = async_nats::jetstream::new(cluster.client("gateway").await);
    gateway.publish(subject.clone(), "frame".into()).await.unwrap().await.unwrap();
    for server in 0..cluster.size() {
        let url = format!("nats://{}", cluster.address(server));
        let nats = connection(&url, Some(&cluster.keys()), NatsTls::default(), Role::Operator);
        let bus = Bus::connect(Role::Operator, &nats, &Tasks::default(), &Health::default()).await.unwrap();
        for n in 0..READINGS {
            let mut reader = Reader::open(&bus, Stream::Events, vec![subject.clone()], 1).await.unwrap();
            let message = reader.next().await;
            assert!(message.is_ok(), "reading {n} at server {server}: {message:?}");
            reader.close().await;
        }
    }
}
