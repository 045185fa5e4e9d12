//! Results of evcxr cells.

/// Shows a result of an evcxr cell: HTML with its text form.
pub(crate) fn cell(html: &str, text: &str) {
    println!("EVCXR_BEGIN_CONTENT text/html\n{html}\nEVCXR_END_CONTENT");
    println!("EVCXR_BEGIN_CONTENT text/plain\n{text}\nEVCXR_END_CONTENT");
}
