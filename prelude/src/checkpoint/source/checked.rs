//! Remembers the weight files that were read from end to end: that their values are finite, and the
//! hashes of their blocks, of which fingerprints are made. A file of many gigabytes is then read
//! once, not at every start.
//!
//! A record is a JSON file in the user's cache directory. It counts for a file of the same path,
//! size, modification time in nanoseconds and inode only. A file that was written within
//! [`SETTLED_NS`] of its check is not recorded: one more write might leave its time as it is.

use std::collections::BTreeMap;
use std::env::var_os;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::checkpoint::storage::{HASHED_BYTES, Mapped, View, hash, read_file};
use crate::checkpoint::write::replace_file;
use crate::error::Result;
use crate::work::Work;

/// The hashes of blocks of [`HASHED_BYTES`] bytes of tensors, by name.
pub(super) type Hashes = Arc<BTreeMap<String, Vec<u64>>>;

/// Smaller files are read in no time.
const LEAST_BYTES: u64 = 64 << 20;

/// The least age of a file that is recorded, more than the coarsest clock of a file system.
const SETTLED_NS: u64 = 4_000_000_000;

/// The maximum size of a record, and how many are kept.
const MAX_RECORD_BYTES: u64 = 64 << 20;
const MAX_RECORDS: usize = 256;

/// The version of the format, and of what is checked.
const VERSION: u32 = 1;

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    path: PathBuf,
    bytes: u64,
    modified_ns: u64,
    inode: u64,
    /// The hashes of the blocks of finite tensors, 16 hexadecimal digits each, by the tensor's
    /// place; none for tensors that are stored in blocks of their own.
    tensors: BTreeMap<String, String>,
}

impl Record {
    /// What has to be the same for the record to count.
    fn file(&self) -> (u32, &Path, u64, u64, u64) {
        (self.version, &self.path, self.bytes, self.modified_ns, self.inode)
    }
}

/// The checks of one source's weights.
pub(super) struct Checks {
    directory: Option<PathBuf>,
    least_bytes: u64,
    /// The records of its files, and the files, by path.
    known: BTreeMap<PathBuf, (Record, Arc<Mapped>)>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// New hashes by path and place.
    new: BTreeMap<PathBuf, BTreeMap<String, String>>,
    hashes: BTreeMap<String, Vec<u64>>,
}

/// The directory of the records, in the cache directory of this program; `None` without a home.
pub(super) fn cache_directory() -> Option<PathBuf> {
    let home = var_os("HOME").map(PathBuf::from);
    let cache = if cfg!(target_os = "macos") {
        home?.join("Library/Caches")
    } else {
        let set = var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        set.or_else(|| Some(home?.join(".cache")))?
    };
    Some(cache.join("dam").join("checked"))
}

impl Checks {
    /// Reads the records in `directory` of the files of `views`.
    pub fn new<'a>(directory: Option<PathBuf>, views: impl Iterator<Item = &'a View>) -> Self {
        Self::of_files(directory, LEAST_BYTES, views)
    }

    /// [`Checks::new`] for files of at least `least_bytes` bytes.
    fn of_files<'a>(
        directory: Option<PathBuf>,
        least_bytes: u64,
        views: impl Iterator<Item = &'a View>,
    ) -> Self {
        let mut checks =
            Self { directory, least_bytes, known: BTreeMap::new(), found: Mutex::default() };
        for (map, _) in views.filter_map(View::place) {
            if !checks.known.contains_key(map.path())
                && let Some(record) = checks.record(map)
            {
                checks.known.insert(map.path().to_owned(), (record, map.clone()));
            }
        }
        checks
    }

    /// What is known of `map`'s file, or an empty record; `None` if it is not to be recorded.
    fn record(&self, map: &Mapped) -> Option<Record> {
        let (bytes, modified_ns) = map.stamp().numbers()?;
        let empty = Record {
            version: VERSION,
            path: map.path().to_owned(),
            bytes,
            modified_ns,
            inode: map.inode(),
            tensors: BTreeMap::new(),
        };
        if bytes < self.least_bytes {
            return None;
        }
        let file = record_file(self.directory.as_deref()?, map.path());
        let text = read_file(&file, MAX_RECORD_BYTES).ok();
        let stored: Option<Record> = text.and_then(|text| serde_json::from_slice(&text).ok());
        let same = |record: &Record| record.file() == empty.file();
        Some(stored.filter(same).unwrap_or(empty))
    }

    /// Checks that the values of `view`, the tensor `name`, are finite, if that is not known;
    /// reports progress to `work`.
    ///
    /// # Errors
    /// A value that is not finite, or a stop.
    pub fn check(&self, name: &str, view: &View, work: &Work) -> Result<()> {
        let place = view.place().and_then(|(map, place)| {
            let (record, _) = self.known.get(map.path())?;
            let known = record.tensors.get(&place).and_then(|text| hashes_of(text));
            let blocks = view.bytes().len().div_ceil(HASHED_BYTES);
            let known = known.filter(|hashes| !view.is_plain() || hashes.len() == blocks);
            Some((map, known, place))
        });
        let found = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, Some(hashes), _)) = place {
            work.advance(view.bytes().len() as u64)?;
            if view.is_plain() {
                found().hashes.insert(name.to_owned(), hashes);
            }
            return Ok(());
        }
        view.prefetch();
        let hashes = view.check_finite_in(name, work)?;
        let mut found = found();
        if let Some((map, _, place)) = place {
            let text = hashes.iter().map(|hash| format!("{hash:016x}")).collect();
            found.new.entry(map.path().to_owned()).or_default().insert(place, text);
        }
        if view.is_plain() {
            found.hashes.insert(name.to_owned(), hashes);
        }
        Ok(())
    }

    /// Records what was checked, and returns the hashes of all plain tensors. A record that cannot
    /// be written is not an error: the file is checked again next time.
    pub fn finish(self) -> Hashes {
        let Found { new, hashes } = self.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (path, tensors) in new {
            let (Some(directory), Some((record, map))) = (&self.directory, self.known.get(&path))
            else {
                continue;
            };
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.map_or(0, |now| now.as_nanos());
            let settled = now >= u128::from(record.modified_ns) + u128::from(SETTLED_NS);
            if !settled || map.check().is_err() {
                continue;
            }
            let mut record = record.clone();
            record.tensors.extend(tensors);
            let Ok(text) = serde_json::to_vec(&record) else { continue };
            let _ = replace_file(&record_file(directory, &path), &text);
            remove_oldest(directory);
        }
        Arc::new(hashes)
    }
}

/// The file of the record of `path`.
fn record_file(directory: &Path, path: &Path) -> PathBuf {
    directory.join(format!("{:016x}.json", hash(path.as_os_str().as_bytes())))
}

/// The hashes in `text`; `None` if it is not a list of hashes.
fn hashes_of(text: &str) -> Option<Vec<u64>> {
    if !text.len().is_multiple_of(16) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let words = text.as_bytes().chunks(16);
    words.map(|word| u64::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()).collect()
}

/// Removes the oldest records of too many.
fn remove_oldest(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let records = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "json"));
    let dated = records.filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())));
    let mut dated: Vec<(SystemTime, PathBuf)> = dated.collect();
    dated.sort();
    let excess = dated.len().saturating_sub(MAX_RECORDS);
    dated[..excess].iter().for_each(|(_, path)| drop(fs::remove_file(path)));
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::safetensors::read_safetensors;
    use crate::checkpoint::storage::map;
    use crate::error::Error;

    /// A file of the tensor `w`, f32, last written at `time`.
    fn write(path: &Path, values: &[f32], time: SystemTime) {
        let end = 4 * values.len();
        let header = format!(
            r#"{{"w":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{end}]}}}}"#,
            values.len()
        );
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        fs::write(path, bytes).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    /// Checks the file as a source does. Returns the hashes of its tensor.
    fn check(path: &Path, records: &Path) -> Result<Vec<u64>> {
        let archive = read_safetensors(path, map(path).unwrap()).unwrap();
        let checks = Checks::of_files(Some(records.into()), 0, archive.tensors.values());
        let work = Work::begin("load", "w", None);
        let checked = checks.check("w", &archive.tensors["w"], &work);
        let hashes = checks.finish();
        checked.map(|()| hashes["w"].clone())
    }

    fn is_bad(result: Result<Vec<u64>>) -> bool {
        matches!(result, Err(Error::NonFinite { position: 1, .. }))
    }

    #[test]
    fn a_file_is_read_once_until_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (path, records) =
            (directory.path().join("w.safetensors"), directory.path().join("records"));
        let old = SystemTime::now() - Duration::from_secs(3600);
        let (good, bad) = ([1f32, 2.0, 3.0], [1f32, f32::NAN, 3.0]);
        write(&path, &good, old);
        let bytes: Vec<u8> = good.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(check(&path, &records).unwrap(), [hash(&bytes)]);
        // A record tells that file, size, time and inode are the same: the bytes are not read.
        write(&path, &bad, old);
        assert_eq!(check(&path, &records).unwrap(), [hash(&bytes)]);
        // Another time, by a nanosecond; then another size.
        write(&path, &bad, old + Duration::from_nanos(1));
        assert!(is_bad(check(&path, &records)));
        write(&path, &[bad.as_slice(), &good].concat(), old);
        assert!(is_bad(check(&path, &records)));
        // Another file in its place.
        let other = directory.path().join("other");
        write(&other, &bad, old);
        fs::rename(&other, &path).unwrap();
        assert!(is_bad(check(&path, &records)));
        // Nothing is recorded of a file with an error.
        assert!(is_bad(check(&path, &records)));
    }

    #[test]
    fn damaged_records_and_young_files_do_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let (path, records) =
            (directory.path().join("w.safetensors"), directory.path().join("records"));
        let (old, now) = (SystemTime::now() - Duration::from_secs(3600), SystemTime::now());
        let (good, bad) = ([1f32, 2.0, 3.0], [1f32, f32::NAN, 3.0]);
        write(&path, &good, now);
        check(&path, &records).unwrap();
        assert!(!records.exists());
        write(&path, &good, old);
        let hashes = check(&path, &records).unwrap();
        let record = record_file(&records, &path);
        let text = fs::read_to_string(&record).unwrap();
        write(&path, &bad, old);
        let hash = format!("{:016x}", hashes[0]);
        let damaged = [
            text[..text.len() / 2].to_owned(),
            text.replace(&hash, &hash[..15]),
            text.replace(&hash, &format!("+{}", &hash[1..])),
            text.replace(&hash, ""),
            text.replace("\"version\":1", "\"version\":0"),
            text.replace("w.safetensors", "v.safetensors"),
        ];
        for damaged in damaged {
            assert_ne!(damaged, text);
            fs::write(&record, &damaged).unwrap();
            let found = check(&path, &records);
            assert!(is_bad(found), "{damaged}");
        }
        // A directory that cannot be written is no error.
        write(&path, &good, old);
        assert_eq!(check(&path, Path::new("/proc/none")).unwrap(), hashes);
    }

    #[test]
    fn the_oldest_of_too_many_records_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        for i in 0..MAX_RECORDS + 3 {
            let path = directory.path().join(format!("{i}.json"));
            fs::write(&path, "").unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(i as u64);
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        remove_oldest(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), MAX_RECORDS);
        assert!(!directory.path().join("2.json").exists());
        assert!(directory.path().join("3.json").exists());
    }
}
