//! deploy/k8s: valid by Kubernetes' schemas, closed, patient, and with a configuration that the relay takes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::deploy::{manifests, printed, read};
use crate::support::relay::RelayOptions;

/// Every manifest, those of kustomization.yaml and those that are applied by themselves.
fn all() -> Vec<Value> {
    let entries = std::fs::read_dir("deploy/k8s").unwrap();
    let paths = entries.map(|entry| entry.unwrap().path().to_str().unwrap().to_owned());
    let paths: BTreeSet<_> = paths.filter(|path| path.ends_with(".yaml")).collect();
    manifests(&paths.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let found: Vec<_> = all.iter().filter(|document| document["kind"] == kind).collect();
    assert!(!found.is_empty(), "there is no {kind}");
    found
}

#[test]
fn manifests_are_valid_and_a_planted_mistake_is_caught() {
    let all = all();
    for kind in [
        "ConfigMap",
        "Deployment",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Secret",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    ] {
        of_kind(&all, kind);
    }
    let directory = tempfile::tempdir().unwrap();
    for (name, from, to) in [
        ("deployment", "terminationGracePeriodSeconds: 40", "terminationGracePeriod: 40"),
        ("deployment", "replicas: 2", "replicas: two"),
        ("deployment", "runAsNonRoot: true", "runAsNonRot: true"),
        ("poddisruptionbudget", "maxUnavailable: 1", "maxUnavailable: [1]"),
        ("migrate-job", "restartPolicy: Never", "restartPolicy: 1"),
        ("servicemonitor", "    - port: admin", "    - prot: admin"),
        ("kustomization", "resources:", "resource:"),
    ] {
        let text = read(&format!("deploy/k8s/{name}.yaml"));
        assert!(text.contains(from), "{from}");
        let path = directory.path().join("planted.yaml");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        assert!(manifests(&[path.to_str().unwrap()]).is_err(), "{name}: {to}");
    }
}

#[test]
fn the_kustomization_names_what_there_is() {
    let all = all();
    let kustomization = of_kind(&all, "Kustomization")[0];
    let resources = kustomization["resources"].as_array().unwrap();
    let named: BTreeSet<_> = resources.iter().map(|name| name.as_str().unwrap()).collect();
    let entries = std::fs::read_dir("deploy/k8s").unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // Secrets are whose they are, and the Job comes first.
    let apart = ["kustomization.yaml", "migrate-job.yaml", "secret.yaml"];
    let there: BTreeSet<_> = names.filter(|name| !apart.contains(&name.as_str())).collect();
    assert_eq!(named, there.iter().map(String::as_str).collect());
    assert_eq!(kustomization["images"][0]["newTag"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn pods_are_closed_and_patient() {
    let all = all();
    let deployment = &of_kind(&all, "Deployment")[0]["spec"];
    assert_eq!(deployment["replicas"], 2, "one has the place, one stands by");
    assert_eq!(deployment["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let pod = &deployment["template"]["spec"];
    // relay.shutdown_grace is 25s.
    assert!(pod["terminationGracePeriodSeconds"].as_i64().unwrap() > 25);
    assert!(pod["affinity"]["podAntiAffinity"].is_object());
    assert!(pod["topologySpreadConstraints"].is_array());
    let relay = &pod["containers"][0];
    assert_eq!(relay["livenessProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(relay["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(relay["ports"][0]["name"], relay["livenessProbe"]["httpGet"]["port"]);

    let job = &of_kind(&all, "Job")[0]["spec"]["template"]["spec"];
    for pod in [pod, job] {
        assert_eq!(pod["automountServiceAccountToken"], false);
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true);
        assert_eq!(security["runAsUser"], 65532, "the image's user");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
        let container = &pod["containers"][0];
        assert_eq!(container["image"], format!("outboxd:{}", env!("CARGO_PKG_VERSION")));
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
        let resources = &container["resources"];
        assert!(resources["requests"]["cpu"].is_string());
        assert!(resources["limits"]["memory"].is_string());
        // Secrets come as files: no environment shows them.
        assert!(container.get("env").is_none() && container.get("envFrom").is_none());
        assert_eq!(
            pod["serviceAccountName"],
            of_kind(&all, "ServiceAccount")[0]["metadata"]["name"]
        );
        named_volumes_exist(&all, pod);
    }
    for account in of_kind(&all, "ServiceAccount") {
        assert_eq!(account["automountServiceAccountToken"], false);
    }
}

fn named_volumes_exist(all: &[Value], pod: &Value) {
    for volume in pod["volumes"].as_array().unwrap() {
        let (kind, name) = match volume.get("secret") {
            Some(secret) => ("Secret", &secret["secretName"]),
            None => ("ConfigMap", &volume["configMap"]["name"]),
        };
        let mut names = of_kind(all, kind).into_iter().map(|found| &found["metadata"]["name"]);
        assert!(names.any(|other| other == name), "there is no {kind} {name}");
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let mounted = mounts.iter().find(|mount| mount["name"] == volume["name"]);
        assert_eq!(mounted.expect("a mount")["readOnly"], true);
    }
}

/// Service, budget, policy and monitor mean the pods that there are.
#[test]
fn selectors_select_the_relay() {
    let all = all();
    let deployment = of_kind(&all, "Deployment")[0];
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let service = of_kind(&all, "Service")[0];
    let selects = |selector: &Value, labels: &Value| {
        let selector = selector.as_object().unwrap();
        !selector.is_empty() && selector.iter().all(|(name, value)| labels[name] == *value)
    };
    assert!(selects(&deployment["spec"]["selector"]["matchLabels"], labels));
    assert!(selects(&service["spec"]["selector"], labels));
    let budget = &of_kind(&all, "PodDisruptionBudget")[0]["spec"];
    assert!(selects(&budget["selector"]["matchLabels"], labels));
    assert!(selects(
        &of_kind(&all, "NetworkPolicy")[0]["spec"]["podSelector"]["matchLabels"],
        labels
    ));
    let monitor = &of_kind(&all, "ServiceMonitor")[0]["spec"];
    assert!(selects(&monitor["selector"]["matchLabels"], &service["metadata"]["labels"]));
    assert_eq!(monitor["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
}

#[test]
fn the_rules_are_those_of_prometheus() {
    let mut command = std::process::Command::new("dev/prometheus-rule");
    let made = printed(&mut command).unwrap();
    let rule = read("deploy/k8s/prometheusrule.yaml");
    assert!(rule == made, "dev/prometheus-rule > deploy/k8s/prometheusrule.yaml");
    assert_eq!(
        rule.matches("alert: ").count(),
        read("deploy/prometheus/alerts.yml").matches("alert: ").count()
    );
}

/// With what is in braces filled in, both pods' command lines read a configuration without fault.
#[test]
fn the_relay_takes_the_configuration() {
    let all = all();
    let directory = tempfile::tempdir().unwrap();
    let (mut filled, root) = (0, directory.path().to_str().unwrap());
    let mut write = |folder: &str, files: &Value| {
        let folder = directory.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in files.as_object().unwrap() {
            let text = text.as_str().unwrap();
            let braces: Vec<_> =
                text.split('{').skip(1).filter_map(|it| it.split_once('}')).collect();
            let mut made = text.replace("/etc/outboxd", root);
            for (name, _) in braces.iter().filter(|(name, _)| !name.contains(' ')) {
                made = made.replace(&format!("{{{name}}}"), name);
                filled += 1;
            }
            std::fs::write(folder.join(name), made).unwrap();
        }
    };
    write("config", &of_kind(&all, "ConfigMap")[0]["data"]);
    for secret in of_kind(&all, "Secret") {
        let folder = if secret["metadata"]["name"] == "outboxd" { "secrets" } else { "owner" };
        write(folder, &secret["stringData"]);
    }
    assert!(filled > 8, "{filled}");
    for (kind, command) in [("Deployment", "run"), ("Job", "migrate")] {
        let container = &of_kind(&all, kind)[0]["spec"]["template"]["spec"]["containers"][0];
        let words = container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        let words: Vec<_> = words.map(|word| word.replace("/etc/outboxd", root)).collect();
        let (last, before) = words.split_last().unwrap();
        assert_eq!(last, command);
        let mut words: Vec<_> = before.iter().map(String::as_str).collect();
        words.push("check");
        let (code, shown, said) = RelayOptions::bare().command_output(&words);
        assert_eq!(code, 0, "{kind}: {said}");
        let owner = shown.contains("/owner/postgres-url");
        assert_eq!(owner, kind == "Job", "{shown}");
        assert!(shown.contains("\"0.0.0.0:9464\""), "{shown}");
    }
}
