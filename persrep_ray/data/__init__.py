"""Objects and their photos on disk: `objects` finds and checks them, `images` decodes, `metadata` names categories."""
