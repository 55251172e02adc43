//! `docs/methods.md` says what the catalogue says. The table is renewed with `BLESS=1`.

use polytask::balance::catalog::{Kind, METHODS, Method, find};
use std::{env, fs};

const DOCS: &str = "docs/methods.md";
const START: &str = "<!-- table: written by tests/methods_docs.rs with BLESS=1 -->\n";
const END: &str = "<!-- end of table -->";

/// Text inside a cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn paper(method: &Method) -> String {
    let Some(paper) = method.paper else { return String::new() };
    let name = format!("{}, {}", paper.authors, paper.year);
    if paper.arxiv.is_empty() { name } else { format!("[{name}](https://arxiv.org/abs/{})", paper.arxiv) }
}

fn options(method: &Method) -> String {
    if !method.given.is_empty() {
        return method.given.into();
    }
    let options = method.options().unwrap();
    let one = |(name, value): &(String, serde_json::Value)| format!("`{name}: {}`", value.to_string().replace('"', ""));
    options.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn table() -> String {
    let mut out = String::new();
    for kind in Kind::ALL {
        let key = kind.key().map(|key| format!(" (`{key}`)")).unwrap_or_default();
        out.push_str(&format!("\n### {}{key}\n\n", kind.title()));
        out.push_str(
            "| method | what it does | needs | keeps | cost | promises | options |\n|---|---|---|---|---|---|---|\n",
        );
        for method in METHODS.iter().filter(|method| method.kind == kind) {
            let keeps = if method.state.is_empty() { "nothing" } else { method.state };
            let about = [method.what.to_owned(), paper(method)].into_iter().filter(|text| !text.is_empty());
            let cells = [
                format!("`{}`", method.name),
                about.collect::<Vec<_>>().join("; "),
                method.needs(),
                keeps.to_owned(),
                method.cost.to_owned(),
                method.promises.words().join("; "),
                options(method),
            ];
            out.push_str(&format!("| {} |\n", cells.map(|text| cell(&text)).join(" | ")));
        }
    }
    out.push('\n');
    out
}

#[test]
fn the_table_is_that_of_the_catalogue() {
    let docs = fs::read_to_string(DOCS).unwrap();
    let (before, rest) = docs.split_once(START).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = table();
    if env::var_os("BLESS").is_some() {
        fs::write(DOCS, format!("{before}{START}{expected}{END}{after}")).unwrap();
    } else {
        assert_eq!(found, expected, "run this test with BLESS=1");
    }
}

#[test]
fn every_name_in_the_text_is_a_method_or_a_key() {
    let docs = fs::read_to_string(DOCS).unwrap();
    let (before, rest) = docs.split_once(START).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let section = after.split_once("## Which one?").unwrap().1.split_once("\n## ").unwrap().0;
    let names: Vec<&str> = section.split('`').skip(1).step_by(2).filter(|word| !word.contains([' ', ':'])).collect();
    assert!(names.len() > 15, "{names:?}");
    let keys = ["every", "T"];
    let unknown: Vec<&&str> = names.iter().filter(|name| find(name).is_none() && !keys.contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(before.contains("polytask balance"));
}

#[test]
fn the_answer_in_the_text_is_that_of_the_program() {
    let docs = fs::read_to_string(DOCS).unwrap();
    let example = docs.split("```text\n").find(|block| block.starts_with("pcgrad: 2 tasks")).unwrap();
    let command = fs::read_to_string("tests/balance_command.rs").unwrap();
    let block = example.split("```").next().unwrap();
    assert!(command.contains(block.trim_end()), "tests/balance_command.rs expects another answer");
}
