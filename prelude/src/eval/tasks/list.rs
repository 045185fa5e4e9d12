//! Tasks and groups of tasks, by file or by name.

use std::path::{Path, PathBuf};

use minijinja::value::{Value, ValueKind};

use super::Task;
use super::group::{GroupFile, TaskGroup};
use super::keys::{bad, pairs};
use super::ready::{self, Found, is_ready};
use super::yaml;
use crate::error::Result;

/// Tasks to score on, and the groups that they are in.
///
/// ```
/// use dam_prelude::eval::TaskList;
///
/// let error = TaskList::open("hellaswg").err().unwrap();
/// assert_eq!(error.hint().unwrap(), "did you mean `hellaswag`?");
/// ```
#[derive(Clone, Debug, Default)]
pub struct TaskList {
    /// The tasks, each once.
    pub tasks: Vec<Task>,
    /// The groups.
    pub groups: Vec<TaskGroup>,
}

/// The maximum depth of groups within groups.
const DEPTH: usize = 8;

impl TaskList {
    /// Opens `task`: the file of a task or of a group, or the name of a predefined one.
    ///
    /// # Errors
    /// As for [`Task::open`]; groups too deep within each other; two different tasks of one name.
    pub fn open(task: &str) -> Result<Self> {
        Self::open_all([task])
    }

    /// Opens several, each as [`TaskList::open`] does.
    ///
    /// # Errors
    /// As for [`TaskList::open`].
    pub fn open_all<'a>(tasks: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut list = Self::default();
        for task in tasks {
            list.add(task, None, &[], 0)?;
        }
        Ok(list)
    }

    fn push_group(&mut self, group: TaskGroup) {
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }

    fn push(&mut self, task: Task) -> Result<()> {
        match self.tasks.iter().find(|own| own.name() == task.name()) {
            None => self.tasks.push(task),
            Some(own) if own.is_same(&task) => {}
            Some(own) => {
                let reason = format!("another task has the name `{}`", own.name());
                return Err(bad(task.file(), "`task`", reason, "give each its own: the key task"));
            }
        }
        Ok(())
    }

    /// Adds `task`, which is named in the directory `beside`, with keys that replace its own.
    /// Returns the names of its tasks.
    fn add(
        &mut self,
        task: &str,
        beside: Option<&Path>,
        replaced: &[(String, Value)],
        depth: usize,
    ) -> Result<Vec<String>> {
        let (file, mut keys) = match file_of(task, beside) {
            Some(file) => {
                let keys = yaml::read(&file)?;
                (file, keys)
            }
            None => match ready::find(task)? {
                Found::Task(keys) => (PathBuf::from(task), keys),
                Found::Group(tasks) => {
                    let add = |name: &String| self.add(name, None, replaced, depth);
                    let names = tasks.iter().map(add).collect::<Result<Vec<_>>>()?.concat();
                    self.push_group(TaskGroup::by_accuracy(task, names.clone()));
                    return Ok(names);
                }
            },
        };
        keys.retain(|(key, _)| !replaced.iter().any(|(own, _)| own == key));
        keys.extend(replaced.iter().cloned());
        self.add_keys(&file, keys, depth)
    }

    fn add_keys(
        &mut self,
        file: &Path,
        keys: Vec<(String, Value)>,
        depth: usize,
    ) -> Result<Vec<String>> {
        if !GroupFile::is(&keys) {
            let task = Task::new(file, keys)?;
            let name = task.name().to_owned();
            self.push(task)?;
            return Ok(vec![name]);
        }
        if depth >= DEPTH {
            let reason = format!("groups are more than {DEPTH} deep within each other");
            return Err(bad(file, "`task`", reason, "remove the cycle"));
        }
        let group = GroupFile::new(file, keys)?;
        let beside = file.parent();
        let mut names: Vec<String> = Vec::new();
        for entry in &group.entries {
            let own = match (entry.as_str(), entry.kind()) {
                (Some(name), _) => self.add(name, beside, &[], depth + 1)?,
                (None, ValueKind::Map) => self.add_entry(file, pairs(entry), depth + 1)?,
                _ => {
                    let reason = "an entry is neither a name nor an object";
                    let hint = "write names of tasks, or objects with the key task";
                    return Err(bad(file, "`task`", reason, hint));
                }
            };
            names.extend(own.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>());
        }
        self.push_group(group.of(names.clone()));
        Ok(names)
    }

    /// Adds an entry of a group that is an object: another group, a whole task, or the name of one
    /// with keys that replace its own.
    fn add_entry(
        &mut self,
        file: &Path,
        mut keys: Vec<(String, Value)>,
        depth: usize,
    ) -> Result<Vec<String>> {
        let has = |name: &str| keys.iter().any(|(key, _)| key == name);
        if has("group") || has("dataset_path") {
            return self.add_keys(file, keys, depth);
        }
        let at = keys.iter().position(|(key, _)| key == "task");
        let name = at.and_then(|at| keys.remove(at).1.as_str().map(str::to_owned));
        let name = name.ok_or_else(|| {
            bad(file, "`task`", "an object names no task", "add the key task to it")
        })?;
        self.add(&name, file.parent(), &keys, depth)
    }
}

/// The file that `task` names in the directory `beside`, or from the working directory; `None` if
/// it is the name of a predefined task.
fn file_of(task: &str, beside: Option<&Path>) -> Option<PathBuf> {
    let is_name = is_ready(task) || !task.contains(['/', '.']);
    if let Some(beside) = beside {
        let ends = if is_name { &[".yaml", ".yml"][..] } else { &[""] };
        let files = ends.iter().map(|end| beside.join(format!("{task}{end}")));
        if let Some(file) = files.into_iter().find(|file| file.is_file()) {
            return Some(file);
        }
    }
    (!is_name || Path::new(task).is_file()).then(|| PathBuf::from(task))
}
