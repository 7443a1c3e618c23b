//! A real Prometheus reads the daemon's metrics, with the example alerts, and is asked whatever the example dashboard asks.
//!
//! `make monitoring-test` fetches Prometheus and runs this.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use simulated::bridge::bridge;
use simulated::{PATIENCE, Rig};
use simxen::Request;

const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/monitoring");

/// A Prometheus of the test's own; killed when dropped.
struct Prometheus {
    process: Child,
    address: String,
}

impl Prometheus {
    /// Has it read the metrics at this port each second.
    fn start(folder: &Path, metrics: u16) -> Self {
        let program = std::env::var("PROMETHEUS").expect("the path of prometheus");
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let config = folder.join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ['{MONITORING}/cowback-alerts.yml']
scrape_configs:
  - job_name: cowback
    static_configs: [{{targets: ['127.0.0.1:{metrics}']}}]
"
        );
        fs::write(&config, text).unwrap();
        let process = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("prometheus").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::from(
                fs::File::create(folder.join("prometheus.log")).unwrap(),
            ))
            .spawn()
            .unwrap();
        Self { process, address }
    }

    /// What it answers; `None` while it does not.
    fn get(&self, path: &str, query: &str) -> Option<Value> {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--get",
                "--data-urlencode",
                &format!("query={query}"),
            ])
            .arg(format!("http://{}/api/v1/{path}", self.address))
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// How many series a query finds.
    fn found(&self, query: &str) -> usize {
        let Some(answer) = self.get("query", query) else {
            return 0;
        };
        let result = answer["data"]["result"].as_array();
        result.unwrap_or_else(|| panic!("{query}: {answer}")).len()
    }

    fn wait_for(&self, query: &str) {
        let begun = Instant::now();
        while self.found(query) == 0 {
            let targets = self.get("targets", "");
            assert!(
                begun.elapsed() < PATIENCE,
                "{query} finds nothing: {targets:?}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the dashboard asks, about all hosts and domains.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(format!("{MONITORING}/cowback-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let of_panels = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let of_panels = of_panels.map(|target| target["expr"].as_str().unwrap());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let of_variables = variables.filter_map(|variable| variable["query"].as_str());
    // label_values(what, label)
    let of_variables = of_variables.filter_map(|query| query.strip_prefix("label_values("));
    let of_variables = of_variables.map(|rest| rest.rsplit_once(',').unwrap().0);
    let filled_in = |query: &str| {
        query
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
            .replace("$domid", ".*")
    };
    of_panels.chain(of_variables).map(filled_in).collect()
}

#[test]
#[ignore = "needs Prometheus: make monitoring-test"]
fn prometheus_understands_the_metrics_and_the_examples() {
    let mut rig = Rig::start();
    let guest = rig.guest(5);
    let (_disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[7; 65536]).unwrap();
    let port = bridge(rig.path("run/metrics.sock")).unwrap();
    let prometheus = Prometheus::start(&rig.path(""), port);
    prometheus.wait_for("cowback_disk_requests_total{domid=\"5\", vdev=\"xvda\"} > 0");
    prometheus.wait_for("cowback_disk_rejected_requests_total == 0");
    assert_eq!(prometheus.found("ALERTS"), 0, "nothing is wrong yet");

    // A guest that breaks the protocol.
    let past_the_end = Request::Read {
        sector: 1 << 40,
        bytes: 512,
    };
    let id = frontend.submit(&past_the_end).unwrap();
    assert_ne!(frontend.wait(id).unwrap().status, 0);
    prometheus
        .wait_for("ALERTS{alertname=\"CowbackHostileGuest\", alertstate=\"firing\", domid=\"5\"}");

    let queries = dashboard_queries();
    assert!(queries.len() > 12, "{queries:?}");
    for query in &queries {
        prometheus.wait_for(query);
    }
    let rules = prometheus.get("rules", "").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap().iter();
    let rules: Vec<&Value> = groups
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert!(rules.len() >= 7, "{rules:?}");
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    println!("{} queries found something", queries.len());
    prometheus.wait_for("count_over_time(cowback_start_time_seconds[1m]) > 5");
    assert_eq!(
        prometheus.found("changes(cowback_start_time_seconds[1m]) > 0"),
        0,
        "it was started once"
    );
    assert_eq!(
        prometheus.found("ALERTS{alertname!=\"CowbackHostileGuest\"}"),
        0,
        "nothing else is wrong"
    );

    rig.daemon.kill().unwrap();
    prometheus.wait_for("ALERTS{alertname=\"CowbackDown\", alertstate=\"pending\"}");
    drop(frontend);
}
