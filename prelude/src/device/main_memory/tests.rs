//! Trees of files as the kernel shows them in containers and on hosts, reduced to the files that
//! are read. The right values follow by arithmetic.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

/// Without a limit, version 1 shows `i64::MAX` in whole pages of 4 KiB.
const UNLIMITED: &str = "9223372036854771712\n";

fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn free(files: &[(&str, &str)]) -> Option<u64> {
    within_groups(tree(files).path())
}

/// The mounts of a container on a host with version 2, where the container has a namespace of its
/// own: Docker, and Kubernetes with containerd, as below JupyterHub.
const CONTAINER_MOUNTS: &str = "\
1460 1283 0:203 / / rw,relatime master:399 - overlay overlay rw,lowerdir=/var/lib/l/A:/var/lib/l/B
1461 1460 0:206 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1462 1460 0:207 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,inode64
1465 1460 0:128 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
1466 1465 0:29 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
1467 1460 253:1 /home/a\\040b /home/jovyan rw,relatime - ext4 /dev/vda1 rw,discard
";

/// A single-user server of JupyterHub with 8 GiB, after 6 GiB of weights were read.
const NOTEBOOK_STAT: &str = "\
anon 1073741824
file 6543114240
kernel 134217728
kernel_stack 1179648
pagetables 8388608
sock 4096
shmem 100663296
file_mapped 5368709120
file_dirty 20971520
file_writeback 10485760
inactive_anon 1174405120
active_anon 4194304
inactive_file 4294967296
active_file 2147483648
unevictable 0
slab_reclaimable 83886080
slab_unreclaimable 33554432
slab 117440512
workingset_refault_file 1024
";

#[test]
fn a_notebook_server_in_kubernetes_has_its_limit_less_what_is_not_cache() {
    let files = |current, max, high| {
        [
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", CONTAINER_MOUNTS),
            ("sys/fs/cgroup/memory.current", current),
            ("sys/fs/cgroup/memory.max", max),
            ("sys/fs/cgroup/memory.high", high),
            ("sys/fs/cgroup/memory.stat", NOTEBOOK_STAT),
        ]
    };
    // Reclaimable: 4096 + 2048 MiB of file pages - 20 dirty - 10 in writeback + 80 of slabs
    // = 6194 MiB; of 7500 MiB used, 1306 stay. 8192 - 1306 = 6886 MiB.
    assert_eq!(free(&files("7864320000\n", "8589934592\n", "max\n")), Some(6886 * MIB));
    // `memory.high` at 6 GiB is the tighter limit: 6144 - 1306 = 4838 MiB.
    assert_eq!(free(&files("7864320000\n", "8589934592\n", "6442450944\n")), Some(4838 * MIB));
    // Less is used than can be reclaimed, which is possible as the files are read in turn.
    assert_eq!(free(&files("1048576\n", "8589934592\n", "max\n")), Some(8192 * MIB));
    // More stays than the limit allows, after the limit was lowered.
    assert_eq!(free(&files("7864320000\n", "1073741824\n", "max\n")), Some(0));
    for none in ["max\n", "0\n", "18446744073709551615\n", "9223372036854775807\n"] {
        assert_eq!(free(&files("7864320000\n", none, "max\n")), None, "{none}");
    }
}

/// A host with systemd: the service and its slice have no limit, the slice above has.
#[test]
fn the_tightest_ancestor_counts_in_nested_slices() {
    const SCOPE: &str = "user.slice/user-1000.slice/user@1000.service/app.slice/jupyter.service";
    let mounts = "\
24 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
26 24 0:24 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
35 26 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:9 - cgroup2 cgroup2 rw,nsdelegate
";
    let group = format!("0::/{SCOPE}\n");
    let at = |depth: usize, file: &str| {
        let names: Vec<&str> = SCOPE.split('/').take(depth).collect();
        format!("sys/fs/cgroup/{}/{file}", names.join("/"))
    };
    let mut files =
        vec![("proc/self/cgroup".into(), group), ("proc/self/mountinfo".into(), mounts.into())];
    let mut add = |depth, current: &str, max: &str, high: &str, stat: &str| {
        for (file, content) in [
            ("memory.current", current),
            ("memory.max", max),
            ("memory.high", high),
            ("memory.stat", stat),
        ] {
            files.push((at(depth, file), content.to_owned()));
        }
    };
    // The root of the hierarchy has no such files except `memory.stat`.
    add(1, "14495514624\n", "max\n", "max\n", "inactive_file 8589934592\nactive_file 0\n");
    // 12 GiB, and 10 before it is slowed; 9216 MiB used, of which 3072 + 2048 - 64 + 256 - 0 = 5312
    // can be dropped: 10240 - (9216 - 5312) = 6336 MiB.
    let slice = "inactive_file 3221225472\nactive_file 2147483648\nfile_dirty 67108864\n\
                 file_writeback 0\nslab_reclaimable 268435456\n";
    add(2, "9663676416\n", "12884901888\n", "10737418240\n", slice);
    add(3, "9663676416\n", "max\n", "max\n", slice);
    // 16 GiB for the applications, of which 8 are used and none can be dropped: 8192 MiB.
    add(4, "8589934592\n", "17179869184\n", "max\n", "inactive_file 0\n");
    add(5, "8589934592\n", "max\n", "max\n", "inactive_file 0\n");
    let mut files: Vec<(&str, &str)> =
        files.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    assert_eq!(free(&files), Some(6336 * MIB));
    // Without the files of the slice, the next one counts.
    files.retain(|(path, _)| !path.starts_with("sys/fs/cgroup/user.slice/user-1000.slice/memory."));
    assert_eq!(free(&files), Some(8192 * MIB));
}

/// Docker on a host with version 1, which shares the host's namespace: the mount shows the
/// container's group, whose name is the host's. Systemd's own hierarchy and an empty one of version
/// 2 are there too.
#[test]
fn docker_on_version_1_counts_the_cache_of_the_whole_group() {
    const ID: &str = "/docker/6f1b0d8c2f0b4f0aa3f43f0f0b8a6c43c7fd8b0c8ae7a5d3e3cbb6e6b3c9d011";
    let groups = format!(
        "12:memory:{ID}\n11:perf_event:{ID}\n6:cpu,cpuacct:{ID}\n1:name=systemd:{ID}\n0::{ID}\n"
    );
    let mounts = format!(
        "\
741 740 0:52 / / rw,relatime master:309 - overlay overlay rw
745 744 0:58 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
746 745 0:29 {ID} /sys/fs/cgroup/systemd ro,nosuid master:11 - cgroup cgroup rw,name=systemd
747 745 0:32 {ID} /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:15 - cgroup cgroup rw,cpu,cpuacct
752 745 0:37 {ID} /sys/fs/cgroup/memory ro,nosuid,nodev master:20 - cgroup cgroup rw,memory
753 745 0:30 {ID} /sys/fs/cgroup/unified ro,nosuid,nodev master:12 - cgroup2 cgroup2 rw,nsdelegate
"
    );
    // The local lines lack what processes in groups below it use, so the totals count.
    let stat = "\
cache 10485760
rss 4096
dirty 0
writeback 0
inactive_file 8388608
active_file 2097152
hierarchical_memory_limit 4294967296
hierarchical_memsw_limit 8589934592
total_cache 2726297600
total_rss 1153433600
total_shmem 41943040
total_mapped_file 1610612736
total_dirty 12582912
total_writeback 4194304
total_inactive_file 1610612736
total_active_file 1073741824
total_unevictable 0
";
    let files = |limit| {
        [
            ("proc/self/cgroup", groups.as_str()),
            ("proc/self/mountinfo", mounts.as_str()),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "3984588800\n"),
            ("sys/fs/cgroup/memory/memory.use_hierarchy", "1\n"),
            ("sys/fs/cgroup/memory/memory.stat", stat),
        ]
    };
    // Of 3800 MiB used, 1536 + 1024 - 12 - 4 = 2544 can be dropped: 4096 - 1256 = 2840 MiB.
    assert_eq!(free(&files("4294967296\n")), Some(2840 * MIB));
    // In a pod of Kubernetes the container has no limit of its own; that of the pod, which it does
    // not see, is `hierarchical_memory_limit`.
    assert_eq!(free(&files(UNLIMITED)), Some(2840 * MIB));
    // 2 GiB of its own: 2048 - 1256 = 792 MiB.
    assert_eq!(free(&files("2147483648\n")), Some(792 * MIB));
}

/// A job of Slurm with version 1: the limit is the job's; the task's group is two levels below.
#[test]
fn a_job_of_a_cluster_is_limited_by_a_group_above() {
    let mounts = "\
30 24 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
39 30 0:35 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec shared:18 - cgroup cgroup rw,memory
";
    let stat = |limit: &str| {
        format!(
            "hierarchical_memory_limit {limit}\ntotal_inactive_file 1073741824\n\
             total_active_file 536870912\ntotal_dirty 0\ntotal_writeback 0\n"
        )
    };
    let (job, open) = (stat("6442450944"), stat("9223372036854771712"));
    let files = |hierarchy| {
        [
            ("proc/self/cgroup", "9:memory:/slurm/uid_1000/job_42/step_0/task_0\n"),
            ("proc/self/mountinfo", mounts),
            ("sys/fs/cgroup/memory/slurm/memory.limit_in_bytes", UNLIMITED),
            ("sys/fs/cgroup/memory/slurm/memory.usage_in_bytes", "64424509440\n"),
            ("sys/fs/cgroup/memory/slurm/memory.stat", open.as_str()),
            ("sys/fs/cgroup/memory/slurm/uid_1000/job_42/memory.limit_in_bytes", "6442450944\n"),
            ("sys/fs/cgroup/memory/slurm/uid_1000/job_42/memory.usage_in_bytes", "5368709120\n"),
            ("sys/fs/cgroup/memory/slurm/uid_1000/job_42/memory.use_hierarchy", hierarchy),
            ("sys/fs/cgroup/memory/slurm/uid_1000/job_42/memory.stat", job.as_str()),
            (
                "sys/fs/cgroup/memory/slurm/uid_1000/job_42/step_0/task_0/memory.limit_in_bytes",
                UNLIMITED,
            ),
            (
                "sys/fs/cgroup/memory/slurm/uid_1000/job_42/step_0/task_0/memory.usage_in_bytes",
                "2147483648\n",
            ),
        ]
    };
    // Of 5120 MiB used, 1024 + 512 can be dropped: 6144 - 3584 = 2560 MiB.
    assert_eq!(free(&files("1\n")), Some(2560 * MIB));
    // A group that leaves out its descendants does not limit them.
    assert_eq!(free(&files("0\n")), None);
}

/// With the host's namespace, a mount of version 2 shows the container's group by its full name.
#[test]
fn mounts_are_found_by_their_root_and_point() {
    const POD: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7c.slice";
    let free_at = |group: &str, root: &str, point: &str, directory: &str| {
        let groups = format!("0::{group}\n");
        let mounts =
            format!("1466 1465 0:29 {root} {point} ro,relatime - cgroup2 cgroup rw,nsdelegate\n");
        free(&[
            ("proc/self/cgroup", &groups),
            ("proc/self/mountinfo", &mounts),
            (&format!("{directory}/memory.max"), "3145728\n"),
            (&format!("{directory}/memory.current"), "1048576\n"),
        ])
    };
    let own = format!("{POD}/cri-containerd-1a.scope");
    let place = "sys/fs/cgroup";
    let two = Some(2 * MIB);
    assert_eq!(free_at(&own, &own, "/sys/fs/cgroup", place), two);
    assert_eq!(free_at(&own, POD, "/sys/fs/cgroup", place), two);
    let below = format!("{place}/cri-containerd-1a.scope");
    assert_eq!(free_at(&own, POD, "/sys/fs/cgroup", &below), two);
    // Whole names count: this is the mount of another group.
    assert_eq!(free_at(&own, &own[..own.len() - 3], "/sys/fs/cgroup", place), None);
    assert_eq!(free_at("/", "/", "/mnt/c\\040\\134g", "mnt/c \\g"), two);
    assert_eq!(free_at("/a:b", "/", "/sys/fs/cgroup", "sys/fs/cgroup/a:b"), two);
    // The mount begins above the root of the namespace, so its group is an ancestor.
    assert_eq!(free_at("/a", "/../..", "/sys/fs/cgroup", place), two);
    // The process is outside of its namespace's root.
    assert_eq!(free_at("/../b", "/", "/sys/fs/cgroup", place), None);
}

/// What is cut or damaged limits nothing, or less; it is never a panic.
#[test]
fn malformed_files_limit_nothing() {
    let right = [
        ("proc/self/cgroup", "0::/\n"),
        ("proc/self/mountinfo", CONTAINER_MOUNTS),
        ("sys/fs/cgroup/memory.max", "8589934592\n"),
        ("sys/fs/cgroup/memory.current", "7864320000\n"),
        ("sys/fs/cgroup/memory.stat", NOTEBOOK_STAT),
    ];
    assert_eq!(free(&right), Some(6886 * MIB));
    // Without `memory.stat`, no cache is known: 8192 - 7500 = 692 MiB.
    assert_eq!(free(&right[..4]), Some(692 * MIB));
    for missing in 0..4 {
        let others = right.iter().enumerate().filter(|(i, _)| *i != missing);
        assert_eq!(free(&others.map(|(_, file)| *file).collect::<Vec<_>>()), None);
    }
    let root = tree(&right);
    let bad: [&[u8]; 6] = [b"", b"-1", b"12 MB", b"\xff\xfe", b"99999999999999999999999", b": - :"];
    for (i, (path, content)) in right.iter().enumerate() {
        let path = root.path().join(path);
        for damaged in bad {
            fs::write(&path, damaged).unwrap();
            let expected = if i < 4 { None } else { Some(692 * MIB) };
            assert_eq!(within_groups(root.path()), expected, "{path:?} {damaged:?}");
        }
        for end in 0..content.len() {
            fs::write(&path, &content[..end]).unwrap();
            within_groups(root.path());
        }
        fs::write(&path, content).unwrap();
    }
    // A line in another encoding does not hide the others.
    let line = b"1467 1460 253:1 / /mnt/\xe9 rw - ext4 /dev/vda1 rw\n";
    fs::write(
        root.path().join("proc/self/mountinfo"),
        [line, CONTAINER_MOUNTS.as_bytes()].concat(),
    )
    .unwrap();
    assert_eq!(within_groups(root.path()), Some(6886 * MIB));
    assert_eq!(within_groups(Path::new("/none")), None);
}
