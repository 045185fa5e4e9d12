//! The main memory that this process can still take.
//!
//! Containers, cluster nodes and notebook hubs limit the memory of a control group, in which the
//! kernel also counts the page cache: every file that a process reads seems to use up the limit.
//! Clean pages of files are dropped as soon as memory is needed, so they count as free here, as in
//! `MemAvailable` for the whole machine.
//!
//! A process belongs to a tree of groups, and the limit of every ancestor binds it. Both versions
//! of control groups are read, because a host may have both (hybrid). The meaning of the files is
//! from the kernel's documentation, `admin-guide/cgroup-v2.rst` and
//! `admin-guide/cgroup-v1/memory.rst`; that of `/proc/self/cgroup` and `/proc/self/mountinfo` is
//! from the manual pages `cgroups(7)`, `cgroup_namespaces(7)` and `proc_pid_mountinfo(5)`.

use std::fs;
use std::path::{Component, Path, PathBuf};

#[cfg(test)]
mod tests;

/// Returns the bytes of main memory available to this process: on the machine and, on Linux, within
/// the limits of its control groups. Page cache that the kernel can drop at once counts as
/// available.
pub fn available_bytes() -> u64 {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let groups = within_groups(Path::new("/")).unwrap_or(u64::MAX);
    system.available_memory().min(groups)
}

/// Returns the bytes free within the tightest control group of this process, in the file system
/// below `root`; `None` without a limit. A file that is missing or malformed limits nothing.
fn within_groups(root: &Path) -> Option<u64> {
    let groups = text(&root.join("proc/self/cgroup"))?;
    let mounts = text(&root.join("proc/self/mountinfo"))?;
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let mut least: Option<u64> = None;
    for (version, group) in groups.lines().filter_map(membership) {
        for mount in mounts.iter().filter(|mount| mount.version == version) {
            for (i, directory) in mount.directories(group).iter().enumerate() {
                let directory = root.join(directory.strip_prefix("/").unwrap_or(directory));
                // In version 1 a group may leave out its descendants; then they are not bound.
                let binds = i == 0 || number(&directory, "memory.use_hierarchy") != Some(0);
                let free = Some(directory).filter(|_| binds).and_then(|at| version.free(&at));
                least = [least, free].into_iter().flatten().min();
            }
        }
    }
    least
}

/// A version of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// A hierarchy for each set of controllers.
    One,
    /// One hierarchy for all controllers.
    Two,
}

/// Returns the version and the group of a line of `/proc/self/cgroup`; `None` if the hierarchy does
/// not control memory. `4:memory:/group` is version 1, `0::/group` version 2.
fn membership(line: &str) -> Option<(Version, &Path)> {
    let mut fields = line.splitn(3, ':');
    let (hierarchy, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
    let version = match hierarchy {
        "0" if controllers.is_empty() => Version::Two,
        _ if controllers.split(',').any(|name| name == "memory") => Version::One,
        _ => return None,
    };
    Some((version, Path::new(group)))
}

/// A place where a hierarchy that may control memory is mounted.
#[derive(Debug)]
struct Mount {
    version: Version,
    /// The group at the mount point. In a container, often its own.
    group: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// Parses a line of `/proc/self/mountinfo`: `id parent device root point options [tags] - type
    /// source options`.
    fn parse(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (group, point) = (unescaped(place.next()?), unescaped(place.next()?));
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let version = match name {
            "cgroup2" => Version::Two,
            "cgroup" if options.split(',').any(|name| name == "memory") => Version::One,
            _ => return None,
        };
        Some(Self { version, group: group.into(), point: point.into() })
    }

    /// Returns the directories of `group` and of its ancestors up to the mount point, if this mount
    /// shows them.
    fn directories(&self, group: &Path) -> Vec<PathBuf> {
        let outside = |path: &Path| path.components().any(|part| part == Component::ParentDir);
        // Names are relative to the root of the process's namespace. A mount made outside of it
        // begins at an ancestor of that root, how far below is unknown.
        let below = if outside(&self.group) { Some(Path::new("")) } else { None };
        let below = below.or_else(|| group.strip_prefix(&self.group).ok());
        // A process outside of its namespace's root is in none of the groups it sees.
        let below = below.filter(|_| !outside(group)).into_iter();
        below.flat_map(Path::ancestors).map(|path| self.point.join(path)).collect()
    }
}

/// Replaces `\040` by a space, and so on: the escapes of `/proc/self/mountinfo`.
fn unescaped(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut found = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => found.extend([char::from(code).to_string().as_str(), &part[3..]]),
            None => found.extend(["\\", part]),
        }
    }
    found
}

impl Version {
    /// Returns the bytes free within the limit of the group at `directory`; `None` without a limit.
    fn free(self, directory: &Path) -> Option<u64> {
        let stat = text(&directory.join("memory.stat")).unwrap_or_default();
        // Above `memory.high` the kernel slows the group's processes down until they are useless.
        let (limits, used) = match self {
            Version::One => (
                // The second is the least limit of the group and its ancestors, which a container
                // may not see.
                [
                    number(directory, "memory.limit_in_bytes"),
                    entry(&stat, "hierarchical_memory_limit"),
                ],
                "memory.usage_in_bytes",
            ),
            Version::Two => (
                [number(directory, "memory.max"), number(directory, "memory.high")],
                "memory.current",
            ),
        };
        let limit = limits.into_iter().flatten().filter(|bytes| is_limit(*bytes)).min()?;
        let used = number(directory, used)?;
        Some(limit.saturating_sub(used.saturating_sub(self.reclaimable(&stat))))
    }

    /// Returns the bytes that the kernel can drop at once, out of a group's `memory.stat`: cached
    /// pages of files except those still to be written, and in version 2 also caches of kernel
    /// objects, which version 1 does not report. The lists of files' pages do not have those of
    /// tmpfs, which would need swap.
    fn reclaimable(self, stat: &str) -> u64 {
        let sum = |names: &[&str]| {
            names.iter().filter_map(|name| entry(stat, name)).fold(0, u64::saturating_add)
        };
        match self {
            Version::One => sum(&["total_inactive_file", "total_active_file"])
                .saturating_sub(sum(&["total_dirty", "total_writeback"])),
            Version::Two => sum(&["inactive_file", "active_file"])
                .saturating_sub(sum(&["file_dirty", "file_writeback"]))
                .saturating_add(sum(&["slab_reclaimable"])),
        }
    }
}

/// Whether `bytes` limits anything. Without a limit, version 1 shows the largest number of bytes in
/// whole pages; under a limit of 0, no process could run.
fn is_limit(bytes: u64) -> bool {
    (1..1 << 60).contains(&bytes)
}

/// Returns the value of `name` in a table of names and numbers.
fn entry(table: &str, name: &str) -> Option<u64> {
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    table.lines().find_map(of)
}

/// Reads a file with a single number.
fn number(directory: &Path, name: &str) -> Option<u64> {
    text(&directory.join(name))?.trim().parse().ok()
}

/// Reads a file. A name in another encoding than UTF-8 does not hide the other lines.
fn text(path: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}
