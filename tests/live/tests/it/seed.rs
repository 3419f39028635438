//! A small catalogue that most tests begin with.

use live::Cli;

/// Kind `app` with a schema; group /push (push), /push/child, /pull (pull, beats each second).
pub(crate) const GROUPS: &str = r"
apiVersion: muster.dev/v1alpha1
kind: PolicyKind
metadata: {name: app}
spec:
  schema:
    type: object
    required: [n]
    additionalProperties: false
    properties: {n: {type: integer}, extra: {type: string}, fixed: {type: string}}
---
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {name: app-push}
spec: {kind: app, document: {n: 0, fixed: here}, locks: [/fixed]}
---
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {name: app-pull}
spec: {kind: app, document: {n: 0}}
---
apiVersion: muster.dev/v1alpha1
kind: Policy
metadata: {name: app-child}
spec: {kind: app, document: {extra: child}}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: push}
spec: {path: /push, settings: {mode: push, heartbeatInterval: 1s, offlineAfter: 5s}, policies: [app-push]}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: child}
spec: {path: /push/child, policies: [app-child]}
---
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: pull}
spec: {path: /pull, settings: {mode: pull, heartbeatInterval: 1s, offlineAfter: 5s}, policies: [app-pull]}
";

/// The manifest of a policy of kind `app`.
pub(crate) fn policy(name: &str, document: &str) -> String {
    format!(
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {{name: {name}}}\nspec: {{kind: app, document: {document}}}\n"
    )
}

/// Version `n` of the policy of /push, which keeps its lock.
pub(crate) fn app_push(n: u64) -> String {
    format!(
        "apiVersion: muster.dev/v1alpha1\nkind: Policy\nmetadata: {{name: app-push}}\nspec: {{kind: app, document: {{n: {n}, fixed: here}}, locks: [/fixed]}}\n"
    )
}

/// Applies [`GROUPS`].
pub(crate) async fn groups(cli: &Cli) {
    let _ = cli.apply(GROUPS).await;
}
