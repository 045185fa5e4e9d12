//! The crates that rust-analyzer sees.
//!
//! evcxr uses rust-analyzer to find the types of variables. What cells use of the prelude consists
//! of its own types and those of candle and the standard library; but rust-analyzer would first
//! read the source of all two hundred dependencies, and of fifty crates that the standard library
//! is tested and built with, and the first cell would wait for that.

use std::collections::BTreeSet;

use serde_json::Value;

/// The packages whose types cells use, beside those a notebook adds with `:dep`.
const KNOWN: [&str; 3] = ["dam-prelude", "candle-core", "half"];

/// The crates of the standard library whose types cells use.
const LIBRARY: [&str; 5] = ["core", "alloc", "std", "std_detect", "proc_macro"];

/// The metadata of a workspace with only the packages whose types cells use.
pub fn only(all: Value) -> Value {
    let members = all["workspace_members"].as_array();
    let packages = all["packages"].as_array().into_iter().flatten();
    let own = packages.filter(|package| members.is_some_and(|own| own.contains(&package["id"])));
    let is_library = own.filter(|package| name(package) == Some("core")).count() == 1;
    if is_library { only_library(all) } else { without_prelude_dependencies(all) }
}

/// The metadata of a workspace without the dependencies of the prelude, except the known packages.
fn without_prelude_dependencies(mut all: Value) -> Value {
    let is_prelude = |package: &Value| name(package) == Some(KNOWN[0]);
    let packages = all["packages"].as_array().cloned().unwrap_or_default();
    let Some(prelude) = packages.iter().find(|p| is_prelude(p)).map(|p| p["id"].clone()) else {
        return all;
    };
    let known = |id: &Value| {
        packages.iter().any(|p| p["id"] == *id && name(p).is_some_and(|name| KNOWN.contains(&name)))
    };
    let nodes = all["resolve"]["nodes"].as_array().cloned().unwrap_or_default();
    // Everything reachable without passing through a known package.
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut waiting: Vec<Value> = all["workspace_members"].as_array().cloned().unwrap_or_default();
    waiting.push(prelude);
    let mut nodes_kept = Vec::new();
    while let Some(id) = waiting.pop() {
        let Some(node) = nodes.iter().find(|node| node["id"] == id) else { continue };
        if !kept.insert(id.to_string()) {
            continue;
        }
        let mut node = node.clone();
        if known(&id) {
            let is_known = |dep: &Value| known(&dep["pkg"]);
            let deps: Vec<Value> = node["deps"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|d| is_known(d))
                .cloned()
                .collect();
            node["dependencies"] = deps.iter().map(|dep| dep["pkg"].clone()).collect();
            node["deps"] = deps.into();
        }
        waiting.extend(node["deps"].as_array().into_iter().flatten().map(|dep| dep["pkg"].clone()));
        nodes_kept.push(node);
    }
    let package_kept = |package: &&Value| kept.contains(&package["id"].to_string());
    all["packages"] = packages.iter().filter(package_kept).cloned().collect();
    all["resolve"]["nodes"] = nodes_kept.into();
    all
}

/// The metadata of the standard library with only its known crates.
fn only_library(mut all: Value) -> Value {
    let known: Vec<Value> = (all["packages"].as_array().into_iter().flatten())
        .filter(|package| {
            name(package).is_some_and(|name| {
                // These stand for `core`, `alloc` and `std` among dependencies.
                LIBRARY.contains(&name) || name.starts_with("rustc-std-workspace-")
            })
        })
        .map(|package| package["id"].clone())
        .collect();
    let keep = |list: &mut Value, id: &dyn Fn(&Value) -> Value| {
        if let Some(list) = list.as_array_mut() {
            list.retain(|entry| known.contains(&id(entry)));
        }
    };
    keep(&mut all["packages"], &|package| package["id"].clone());
    keep(&mut all["workspace_members"], &Value::clone);
    keep(&mut all["workspace_default_members"], &Value::clone);
    keep(&mut all["resolve"]["nodes"], &|node| node["id"].clone());
    for node in all["resolve"]["nodes"].as_array_mut().into_iter().flatten() {
        keep(&mut node["deps"], &|dep| dep["pkg"].clone());
        keep(&mut node["dependencies"], &Value::clone);
    }
    all
}

/// The name of a package.
fn name(package: &Value) -> Option<&str> {
    package["name"].as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::only;

    #[test]
    fn only_dependencies_of_the_prelude_are_left_out() {
        let package = |name: &str| json!({"id": name, "name": name});
        let node = |id: &str, deps: &[&str]| {
            let deps: Vec<_> = deps.iter().map(|dep| json!({"name": dep, "pkg": dep})).collect();
            json!({"id": id, "deps": deps, "dependencies": []})
        };
        let packages =
            ["ctx", "dam-prelude", "candle-core", "gemm", "regex", "memchr"].map(package);
        let all = json!({
            "packages": packages,
            "workspace_members": ["ctx"],
            "resolve": {"nodes": [
                node("ctx", &["dam-prelude", "regex"]), node("dam-prelude", &["candle-core", "gemm"]),
                node("candle-core", &["gemm"]), node("gemm", &[]), node("regex", &["memchr"]), node("memchr", &[]),
            ]},
        });
        let few = only(all);
        let names: Vec<_> = few["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["ctx", "dam-prelude", "candle-core", "regex", "memchr"]);
        let nodes = few["resolve"]["nodes"].as_array().unwrap();
        let prelude = nodes.iter().find(|node| node["id"] == "dam-prelude").unwrap();
        assert_eq!(prelude["dependencies"], json!(["candle-core"]));
    }
    #[test]
    fn the_standard_library_is_left_without_its_tests_and_dependencies() {
        let names = ["core", "alloc", "std", "coretests", "libc", "rustc-std-workspace-core"];
        let packages = names.map(|name| json!({"id": name, "name": name}));
        let all = json!({
            "packages": packages,
            "workspace_members": ["core", "alloc", "std", "coretests"],
            "resolve": {"nodes": [
                {"id": "std", "deps": [{"pkg": "core"}, {"pkg": "libc"}], "dependencies": ["core", "libc"]},
                {"id": "libc", "deps": [], "dependencies": []},
            ]},
        });
        let few = only(all);
        let ids = |list: &serde_json::Value| -> Vec<String> {
            let ids = list.as_array().unwrap().iter();
            ids.map(|entry| entry["id"].as_str().or(entry.as_str()).unwrap().to_owned()).collect()
        };
        assert_eq!(ids(&few["packages"]), ["core", "alloc", "std", "rustc-std-workspace-core"]);
        assert_eq!(ids(&few["workspace_members"]), ["core", "alloc", "std"]);
        assert_eq!(
            few["resolve"]["nodes"],
            json!([{"id": "std", "deps": [{"pkg": "core"}], "dependencies": ["core"]}])
        );
    }
}
