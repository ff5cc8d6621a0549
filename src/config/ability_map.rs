//! The ability map of a gateway.yaml or a map file, without the rest of the configuration.

use std::path::Path;
use std::rc::Rc;

use serde_json::Value as Json;

use super::language::{Decoder, Environment, Node, Report, schema_of};
use super::sections::abilities::MapFile;
use super::sections::{SECRETS, abilities};
use crate::policy::map::AbilityMap;

/// A valid ability map.
#[derive(Debug)]
pub struct LoadedAbilities {
    /// The map.
    pub map: AbilityMap,
    /// Warnings and notes.
    pub warnings: Report,
}

/// Loads the map with the environment of the process. Needs no secret, and only the variables that the map reads.
///
/// # Errors
/// A report of every error in it.
pub fn load_abilities(path: &Path) -> Result<LoadedAbilities, Report> {
    load_abilities_with(path, &|name| std::env::var(name).ok())
}

/// Loads the map with the given environment.
///
/// # Errors
/// A report of every error in it.
pub fn load_abilities_with(path: &Path, environment: &Environment<'_>) -> Result<LoadedAbilities, Report> {
    let mut decoder = Decoder::new(environment, &SECRETS);
    let tree = decoder.read_file(path);
    compile_document(path, tree, decoder)
}

/// The JSON Schema of a map file.
pub fn map_schema() -> Json {
    schema_of::<MapFile>("map", "map file of stockaj-gateway")
}

/// Decodes and compiles the map of a document; `None` if it could not be parsed.
pub(crate) fn compile_document(
    path: &Path,
    tree: Option<Rc<Node>>,
    mut decoder: Decoder<'_>,
) -> Result<LoadedAbilities, Report> {
    let map = tree.and_then(|tree| compile(&tree, &mut decoder));
    let (map, warnings) = decoder.finish(path, map)?;
    Ok(LoadedAbilities { map, warnings })
}

/// Decodes and compiles the map of a document. Returns `None` if it recorded an error.
pub(crate) fn compile(tree: &Node, decoder: &mut Decoder<'_>) -> Option<AbilityMap> {
    let (abilities, mode) = abilities::decode_document(tree, decoder)?;
    Some(abilities::compile(&abilities, mode, decoder))
}
