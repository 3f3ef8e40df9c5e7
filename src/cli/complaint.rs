//! What is wrong with a file, as a compiler would say it: place, path, sentence, the line itself, and how to
//! mend it.

use annotate_snippets::{AnnotationKind, Element, Group, Level, Renderer, Snippet};

use super::span::Place;

/// One thing that is wrong with a file.
#[derive(Clone, Debug)]
pub struct Complaint {
    pub place: Option<Place>,
    /// With its path, where it has one: `spec.experiments[0].hold: a hold must be longer than 0s`.
    pub message: String,
    pub help: Option<String>,
}

/// A file that cannot be used: everything that is wrong with it.
#[derive(Clone, Debug)]
pub struct Complaints {
    /// As the user named it.
    pub file: String,
    pub text: String,
    pub all: Vec<Complaint>,
}

impl Complaints {
    /// About the file as a whole.
    pub fn whole(file: &str, message: impl Into<String>) -> Self {
        let all = vec![Complaint { place: None, message: message.into(), help: None }];
        Complaints { file: file.to_owned(), text: String::new(), all }
    }
}

impl std::fmt::Display for Complaints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, complaint) in self.all.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            self.one(complaint, f)?;
        }
        Ok(())
    }
}

impl Complaints {
    fn one(&self, complaint: &Complaint, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Complaint { place, message, help } = complaint;
        let Some(place) = place else {
            writeln!(f, "{}: {message}", self.file)?;
            return match help {
                Some(help) => writeln!(f, "  = help: {help}"),
                None => Ok(()),
            };
        };
        writeln!(f, "{}:{}:{}: {message}", self.file, place.line, place.column)?;
        let snippet = Snippet::source(&self.text).annotation(AnnotationKind::Primary.span(one_line(&self.text, place)));
        let mut elements: Vec<Element<'_>> = vec![snippet.into()];
        if let Some(help) = help {
            elements.push(Level::HELP.message(help.as_str()).into());
        }
        // Styled always: what writes it takes the colours out where there is no terminal.
        writeln!(f, "{}", Renderer::styled().render(&[Group::with_level(Level::ERROR).elements(elements)]))
    }
}

/// The place's bytes, but not beyond the end of its first line, and inside the text.
fn one_line(text: &str, place: &Place) -> std::ops::Range<usize> {
    let start = floor(text, place.bytes.start.min(text.len()));
    let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
    start..floor(text, place.bytes.end.clamp(start, line_end))
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
