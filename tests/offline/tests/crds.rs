//! The chart with the custom resources is what the types say that read manifests. `UPDATE=1` rewrites it.

use offline::golden;
use offline::tree::root;
use serde_json::Value;

const TEMPLATES: &str = "helm/muster-crds/templates";

#[test]
fn custom_resources_are_what_manifests_are() {
    let definitions = operator::crd::definitions();
    let mut files = Vec::new();
    for definition in &definitions {
        let plural = definition["spec"]["names"]["plural"].as_str().unwrap();
        let text = serde_saphyr::to_string(definition).unwrap();
        assert!(!text.contains("{{"), "{plural}: Helm would take this for its own");
        let back: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, *definition);
        files.push(format!("{plural}.yaml"));
        golden::compare(&format!("{TEMPLATES}/{plural}.yaml"), &text);
    }
    let mut there: Vec<String> = std::fs::read_dir(root().join(TEMPLATES))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    there.sort();
    assert_eq!(there, files, "each kind has a file, and no other is there");
}
