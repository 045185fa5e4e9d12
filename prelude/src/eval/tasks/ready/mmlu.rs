//! MMLU (arXiv 2009.03300): 57 subjects in four groups.

/// The keys that all subjects share.
pub(super) const TEXT: &str = include_str!("mmlu.yaml");

/// The groups with their subjects.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "mmlu_humanities",
        &[
            "formal_logic",
            "high_school_european_history",
            "high_school_us_history",
            "high_school_world_history",
            "international_law",
            "jurisprudence",
            "logical_fallacies",
            "moral_disputes",
            "moral_scenarios",
            "philosophy",
            "prehistory",
            "professional_law",
            "world_religions",
        ],
    ),
    (
        "mmlu_other",
        &[
            "business_ethics",
            "clinical_knowledge",
            "college_medicine",
            "global_facts",
            "human_aging",
            "management",
            "marketing",
            "medical_genetics",
            "miscellaneous",
            "nutrition",
            "professional_accounting",
            "professional_medicine",
            "virology",
        ],
    ),
    (
        "mmlu_social_sciences",
        &[
            "econometrics",
            "high_school_geography",
            "high_school_government_and_politics",
            "high_school_macroeconomics",
            "high_school_microeconomics",
            "high_school_psychology",
            "human_sexuality",
            "professional_psychology",
            "public_relations",
            "security_studies",
            "sociology",
            "us_foreign_policy",
        ],
    ),
    (
        "mmlu_stem",
        &[
            "abstract_algebra",
            "anatomy",
            "astronomy",
            "college_biology",
            "college_chemistry",
            "college_computer_science",
            "college_mathematics",
            "college_physics",
            "computer_security",
            "conceptual_physics",
            "electrical_engineering",
            "elementary_mathematics",
            "high_school_biology",
            "high_school_chemistry",
            "high_school_computer_science",
            "high_school_mathematics",
            "high_school_physics",
            "high_school_statistics",
            "machine_learning",
        ],
    ),
];

/// The group of all subjects.
const ALL: &str = "mmlu";

fn subjects() -> impl Iterator<Item = &'static str> {
    GROUPS.into_iter().flat_map(|(_, subjects)| subjects.iter().copied())
}

/// The names of all groups.
pub(super) fn groups() -> impl Iterator<Item = &'static str> {
    [ALL].into_iter().chain(GROUPS.map(|(name, _)| name))
}

/// The tasks of the group `name`; `None` if there is no such group.
pub(super) fn tasks(name: &str) -> Option<Vec<String>> {
    let task = |subject: &str| format!("mmlu_{subject}");
    if name == ALL {
        return Some(subjects().map(task).collect());
    }
    let (_, own) = GROUPS.iter().find(|(group, _)| *group == name)?;
    Some(own.iter().copied().map(task).collect())
}

/// The subject of the task `name`: `mmlu_SUBJECT`.
pub(super) fn subject(name: &str) -> Option<&'static str> {
    let name = name.strip_prefix("mmlu_")?;
    subjects().find(|subject| *subject == name)
}

/// What stands before the questions of a subject.
pub(super) fn description(subject: &str) -> String {
    let about = subject.replace('_', " ");
    format!("The following are multiple choice questions (with answers) about {about}.\n\n")
}
