//! Fingerprints of sources, and whether their files have changed since they were opened.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::loaded::Source;
use crate::checkpoint::storage::{HASHED_BYTES, View, hash, mix};
use crate::error::Result;
use crate::work::Work;

impl Source {
    /// Returns an error if a weight file has changed since it was loaded.
    ///
    /// # Errors
    /// [`Error::Changed`](crate::error::Error::Changed).
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let mut files = BTreeMap::new();
        self.0.views.values().for_each(|view| view.files(&mut files));
        files.values().try_for_each(|file| file.check())
    }

    /// Returns an error if a weight file or a side file has changed since it was loaded.
    ///
    /// # Errors
    /// [`Error::Changed`](crate::error::Error::Changed).
    pub(crate) fn check_files_unchanged(&self) -> Result<()> {
        self.check_unchanged()?;
        self.0.stamps.iter().try_for_each(|(file, stamp)| stamp.check(file))
    }

    /// A fingerprint of the configuration and all weights, to detect changes.
    pub(crate) fn fingerprint(&self) -> Result<&str> {
        if let Some(source) = &self.0.original {
            return source.fingerprint();
        }
        if let Some(known) = self.0.fingerprint.get() {
            return Ok(known);
        }
        self.check_unchanged()?;
        let config = hash(&self.0.files.require("config.json")?);
        let views: Vec<(&String, &View)> = self.0.views.iter().collect();
        let work =
            Work::begin("save", format!("reading {}", self.name()), Some(self.bytes() as u64));
        let hashes = views.par_iter().map(|(name, view)| {
            let layout = hash(format!("{name}{:?}{:?}", view.dtype, view.shape).as_bytes());
            let block = |bytes: &[u8]| work.advance(bytes.len() as u64).map(|()| hash(bytes));
            let blocks = match self.0.hashes.get(*name) {
                // They were made when the source was opened, or before.
                Some(known) => {
                    work.advance(view.bytes().len() as u64)?;
                    known.clone()
                }
                None => {
                    let blocks = view.bytes().par_chunks(HASHED_BYTES);
                    blocks.map(block).collect::<Result<Vec<u64>>>()?
                }
            };
            let added = view
                .layout()
                .into_iter()
                .chain(view.deltas.iter().flat_map(|delta| delta.parts()).map(u64::from));
            Ok(blocks.into_iter().chain(added).fold(layout, mix))
        });
        let hashes = hashes.collect::<Result<Vec<u64>>>()?;
        Ok(self
            .0
            .fingerprint
            .get_or_init(|| format!("{:016x}", hashes.into_iter().fold(config, mix))))
    }
}
