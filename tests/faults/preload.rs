//! A library to preload. Of the calls that write or change files, number `DAM_FAULT` fails with
//! `DAM_FAULT_ERROR`. Standard output and standard error do not count. At exit, the number of calls
//! is appended to the file `DAM_FAULT_LOG`, and whether the fault occurred.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
    fn getenv(name: *const c_char) -> *const c_char;
    fn atexit(f: extern "C" fn()) -> c_int;
    fn close(fd: c_int) -> c_int;
}

/// The `dlsym` handle for the next library.
const NEXT: *mut c_void = -1isize as *mut c_void;

static CALLS: AtomicU64 = AtomicU64::new(0);

fn number(name: &CStr) -> u64 {
    // SAFETY: the name is NUL-terminated, and so is the value. The programs under test start no
    // kernel, so they change their environment only at startup, before any call that counts.
    let value = unsafe { getenv(name.as_ptr()) };
    if value.is_null() {
        return 0;
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(value) }.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Writes the result at exit: `calls N` or `fault N`.
extern "C" fn report() {
    let calls = CALLS.load(Ordering::SeqCst);
    let text = format!("{} {calls}\n", if calls >= number(c"DAM_FAULT") { "fault" } else { "calls" });
    // SAFETY: the path is NUL-terminated, and no other thread changes the environment at exit; the
    // calls are the system's own.
    unsafe {
        let path = getenv(c"DAM_FAULT_LOG".as_ptr());
        if !path.is_null() {
            // Write only, create, append.
            let fd = next_open(path, 0o1 | 0o100 | 0o2000, 0o600);
            next_write(fd, text.as_ptr().cast(), text.len());
            close(fd);
        }
    }
}

/// Whether this call fails, in which case `errno` is set.
fn fails() -> bool {
    static BEGUN: OnceLock<(u64, c_int)> = OnceLock::new();
    let (fault, error) = *BEGUN.get_or_init(|| {
        // SAFETY: the function stays loaded.
        unsafe { atexit(report) };
        (number(c"DAM_FAULT"), number(c"DAM_FAULT_ERROR") as c_int)
    });
    let fails = CALLS.fetch_add(1, Ordering::SeqCst) + 1 == fault;
    if fails {
        // SAFETY: errno is thread-local.
        unsafe { *__errno_location() = error };
    }
    fails
}

/// The next definition of a symbol after this library, with this type.
macro_rules! next {
    ($name:expr, $kind:ty) => {{
        static FOUND: OnceLock<usize> = OnceLock::new();
        std::mem::transmute::<usize, $kind>(*FOUND.get_or_init(|| dlsym(NEXT, $name.as_ptr()) as usize))
    }};
}

type Open = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type Write = unsafe extern "C" fn(c_int, *const c_void, usize) -> isize;

unsafe fn next_open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: guaranteed by the caller.
    unsafe { next!(c"open64", Open)(path, flags, mode) }
}

unsafe fn next_write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    // SAFETY: guaranteed by the caller.
    unsafe { next!(c"write", Write)(fd, bytes, count) }
}

/// Only calls that open for writing count.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: guaranteed by the caller.
    if flags & 0o3 != 0 && fails() { -1 } else { unsafe { next_open(path, flags, mode) } }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    // SAFETY: guaranteed by the caller.
    if fd > 2 && fails() { -1 } else { unsafe { next_write(fd, bytes, count) } }
}

macro_rules! fail {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> $result {
                type Kind = unsafe extern "C" fn($($kind),*) -> $result;
                const NAME: &CStr = match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!(),
                };
                // SAFETY: guaranteed by the caller.
                if fails() { -1 } else { unsafe { next!(NAME, Kind)($($argument),*) } }
            }
        )*
    };
}

fail! {
    pwrite64(fd: c_int, bytes: *const c_void, count: usize, at: i64) -> isize;
    ftruncate64(fd: c_int, length: i64) -> c_int;
    fsync(fd: c_int) -> c_int;
    fdatasync(fd: c_int) -> c_int;
    rename(from: *const c_char, to: *const c_char) -> c_int;
    mkdir(path: *const c_char, mode: u32) -> c_int;
    symlink(to: *const c_char, path: *const c_char) -> c_int;
    chmod(path: *const c_char, mode: u32) -> c_int;
    fchmod(fd: c_int, mode: u32) -> c_int;
    unlink(path: *const c_char) -> c_int;
    copy_file_range(from: c_int, at: *mut i64, to: c_int, to_at: *mut i64, count: usize, flags: u32) -> isize;
    sendfile64(to: c_int, from: c_int, at: *mut i64, count: usize) -> isize;
}
