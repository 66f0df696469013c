//! A log file: appended to, begun anew by time or size as Python's handlers do, and opened again when somebody (as
//! logrotate) has moved it away.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Datelike as _, Days, Duration, Local, NaiveDateTime, NaiveTime, TimeZone as _, Utc};
use hearth_config::telemetry::{Rotation, When};

/// How often it is looked whether the file is still where it was.
const LOOK: Duration = Duration::seconds(1);

/// An open log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    size: u64,
    /// When it is begun anew, for those that are by time.
    due: Option<DateTime<Local>>,
    looked: DateTime<Local>,
}

impl LogFile {
    /// Opens a file to append to.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = append_to(path)?;
        let metadata = file.metadata()?;
        // A file that was written to by an earlier run is as old as its last line.
        let begun = if metadata.len() > 0 { metadata.modified()?.into() } else { Local::now() };
        let due = due(rotation, begun);
        Ok(Self { path: path.to_owned(), rotation, file, size: metadata.len(), due, looked: Local::now() })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn write(&mut self, line: &str, now: DateTime<Local>) -> io::Result<()> {
        if now - self.looked >= LOOK || now < self.looked {
            self.looked = now;
            self.follow()?;
        }
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        let old = match self.rotation {
            Rotation::Timed { .. } => self.due.filter(|due| now >= *due).map(|due| self.name_of(due)),
            Rotation::Size { bytes, keep } if keep > 0 && self.size > 0 && self.size.saturating_add(length) > bytes => {
                Some(numbered(&self.path, 1))
            }
            _ => None,
        };
        if let Some(old) = old {
            // What cannot be moved is written on.
            let _ = self.begin_anew(&old, now);
        }
        self.file.write_all(line.as_bytes())?;
        self.size = self.size.saturating_add(length);
        Ok(())
    }

    /// Opens the file again if another one, or none, is at its place.
    fn follow(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let same = fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        if !same {
            self.file = append_to(&self.path)?;
            self.size = self.file.metadata()?.len();
        }
        Ok(())
    }

    fn begin_anew(&mut self, old: &Path, now: DateTime<Local>) -> io::Result<()> {
        if let Rotation::Size { keep, .. } = self.rotation {
            for n in (1..keep).rev() {
                let _ = fs::rename(numbered(&self.path, n), numbered(&self.path, n + 1));
            }
        }
        self.due = due(self.rotation, now);
        fs::rename(&self.path, old)?;
        self.file = append_to(&self.path)?;
        self.size = 0;
        if let Rotation::Timed { keep, .. } = self.rotation
            && keep > 0
        {
            self.forget_old(keep)?;
        }
        Ok(())
    }

    /// The name of a file whose time ended: when it began.
    fn name_of(&self, due: DateTime<Local>) -> PathBuf {
        let Rotation::Timed { when, interval, utc, .. } = self.rotation else { return self.path.clone() };
        let began = due - length(when, interval);
        let format = suffix(when);
        let stamp =
            if utc { began.with_timezone(&Utc).format(format).to_string() } else { began.format(format).to_string() };
        with_suffix(&self.path, &stamp)
    }

    /// Removes the oldest of those that were begun by time; their names sort by age.
    fn forget_old(&self, keep: u32) -> io::Result<()> {
        let Rotation::Timed { when, .. } = self.rotation else { return Ok(()) };
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Some(name) = self.path.file_name().and_then(|n| n.to_str()) else { return Ok(()) };
        let mut old = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let stamp =
                entry.file_name().to_str().and_then(|n| n.strip_prefix(name)?.strip_prefix('.').map(str::to_owned));
            // Only what we have named ourselves.
            if stamp.is_some_and(|stamp| is_stamp(&stamp, suffix(when))) {
                old.push(entry.path());
            }
        }
        old.sort();
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let too_many = old.len().saturating_sub(keep);
        for path in old.into_iter().take(too_many) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Looks whether a file could be appended to, and makes none.
///
/// # Errors
/// What the file system says.
pub(super) fn look(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    match OpenOptions::new().append(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        said => said.map(drop),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    with_suffix(path, &n.to_string())
}

fn suffix(when: When) -> &'static str {
    match when {
        When::Second => "%Y-%m-%d_%H-%M-%S",
        When::Minute => "%Y-%m-%d_%H-%M",
        When::Hour => "%Y-%m-%d_%H",
        When::Day | When::Midnight | When::Weekday(_) => "%Y-%m-%d",
    }
}

fn is_stamp(text: &str, format: &str) -> bool {
    let digits = format.replace("%Y", "0000").replace(|c: char| c.is_ascii_alphabetic(), "0").replace('%', "0");
    text.len() == digits.len()
        && text.bytes().zip(digits.bytes()).all(|(a, b)| if b == b'0' { a.is_ascii_digit() } else { a == b })
}

fn length(when: When, interval: u32) -> Duration {
    let times = i32::try_from(interval).unwrap_or(i32::MAX);
    match when {
        When::Second => Duration::seconds(1) * times,
        When::Minute => Duration::minutes(1) * times,
        When::Hour => Duration::hours(1) * times,
        When::Day | When::Midnight => Duration::days(1) * times,
        When::Weekday(_) => Duration::days(7) * times,
    }
}

/// When a file that was begun then has had its time.
fn due(rotation: Rotation, begun: DateTime<Local>) -> Option<DateTime<Local>> {
    let Rotation::Timed { when, interval, utc, .. } = rotation else { return None };
    let midnight = |days: u64| {
        let next =
            |date: chrono::NaiveDate| Some(NaiveDateTime::new(date.checked_add_days(Days::new(days))?, NaiveTime::MIN));
        if utc {
            let midnight = next(begun.with_timezone(&Utc).date_naive())?;
            return Some(Utc.from_utc_datetime(&midnight).with_timezone(&Local));
        }
        let midnight = next(begun.date_naive())?;
        // Where the clocks are put forward at midnight there is none; the hour after it will do.
        let at = |time: NaiveDateTime| Local.from_local_datetime(&time).earliest();
        at(midnight).or_else(|| at(midnight + Duration::hours(1)))
    };
    match when {
        When::Midnight => midnight(u64::from(interval)),
        When::Weekday(day) => {
            let today = if utc { begun.with_timezone(&Utc).weekday() } else { begun.weekday() };
            let wait = (7 + u64::from(day) - u64::from(today.num_days_from_monday())) % 7;
            midnight(wait + 1 + 7 * u64::from(interval.saturating_sub(1)))
        }
        _ => begun.checked_add_signed(length(when, interval)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(text: &str) -> DateTime<Local> {
        let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap();
        Local.from_local_datetime(&time).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn timed(when: When, interval: u32, keep: u32) -> Rotation {
        Rotation::Timed { when, interval, keep, utc: false }
    }

    #[test]
    fn times_are_those_of_python() {
        let begun = at("2026-11-24 13:30:10"); // a Tuesday
        for (when, interval, expected) in [
            (When::Second, 90, "2026-11-24 13:31:40"),
            (When::Minute, 5, "2026-11-24 13:35:10"),
            (When::Hour, 1, "2026-11-24 14:30:10"),
            (When::Day, 1, "2026-11-25 13:30:10"),
            (When::Midnight, 1, "2026-11-25 00:00:00"),
            (When::Midnight, 2, "2026-11-26 00:00:00"),
            (When::Weekday(1), 1, "2026-11-25 00:00:00"),
            (When::Weekday(0), 1, "2026-12-01 00:00:00"),
            (When::Weekday(2), 2, "2026-12-03 00:00:00"),
        ] {
            assert_eq!(due(timed(when, interval, 0), begun), Some(at(expected)), "{when:?} {interval}");
        }
        assert_eq!(due(Rotation::Never, begun), None);
    }

    #[test]
    fn a_day_a_file_and_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(dir.path().join("a.log.notes"), "another's").unwrap();
        let mut log = LogFile::open(&path, timed(When::Midnight, 1, 2)).unwrap();
        log.due = due(log.rotation, at("2026-11-20 10:00:00"));
        for day in 20..=24 {
            log.write(&format!("{day}\n"), at(&format!("2026-11-{day} 12:00:00"))).unwrap();
        }
        log.write("24 again\n", at("2026-11-24 23:59:59")).unwrap();
        assert_eq!(names(dir.path()), ["a.log", "a.log.2026-11-22", "a.log.2026-11-23", "a.log.notes"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "24\n24 again\n");
        assert_eq!(fs::read_to_string(dir.path().join("a.log.2026-11-23")).unwrap(), "23\n");
    }

    #[test]
    fn a_size_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(&path, "before\n").unwrap();
        let mut log = LogFile::open(&path, Rotation::Size { bytes: 10, keep: 2 }).unwrap();
        let now = Local::now();
        for line in ["one\n", "two\n", "three\n", "four\n", "longer than all of it\n"] {
            log.write(line, now).unwrap();
        }
        assert_eq!(names(dir.path()), ["a.log", "a.log.1", "a.log.2"]);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((read("a.log").as_str(), read("a.log.1").as_str()), ("longer than all of it\n", "four\n"));
        assert_eq!(read("a.log.2"), "three\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
        let mut log = LogFile::open(&path, Rotation::Never).unwrap();
        let now = Local::now();
        log.write("one\n", now).unwrap();
        fs::rename(&path, &moved).unwrap();
        log.write("two\n", now + LOOK).unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    }
}
