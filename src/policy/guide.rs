//! The abilities of Stockaj's authentication guide, with its groups and descriptions.

/// A table of the guide.
#[derive(Debug)]
pub struct Group {
    /// The heading of the table.
    pub title: &'static str,
    /// The abilities with their descriptions.
    pub abilities: &'static [(&'static str, &'static str)],
}

/// The guide's tables.
pub const GROUPS: [Group; 3] = [
    Group {
        title: "Read-only abilities",
        abilities: &[
            ("items:read", "Items, variants, types, tags"),
            ("renters:read", "Renters"),
            ("rents:read", "Rentals"),
            ("webhooks:read", "Webhooks"),
            ("notifications:read", "Notifications"),
            ("instance:read", "Workspace settings"),
        ],
    },
    Group {
        title: "Write abilities",
        abilities: &[
            ("items:create", "Create items, variants, types, tags"),
            ("items:update", "Update items, variants, types, tags"),
            ("items:delete", "Delete/restore items, variants, types, tags"),
            ("renters:create", "Create renters"),
            ("renters:update", "Update renters"),
            ("renters:delete", "Delete/restore renters"),
            ("rents:create", "Create rentals"),
            ("rents:update", "Update rentals"),
            ("rents:delete", "Delete rentals"),
        ],
    },
    Group {
        title: "Special abilities",
        abilities: &[
            ("kiosk:scan", "Use kiosk scan and search endpoints"),
            ("webhooks:manage", "Create/update/delete webhooks"),
            ("notifications:manage", "Manage notification state and preferences"),
            ("instance:manage", "Update workspace settings"),
        ],
    },
];

/// All abilities in the order of the guide.
pub fn abilities() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.abilities).map(|(ability, _)| *ability)
}
