import { count } from "./common";

export const groups = {
	title: "Groups",
	lead: "A group is a label that devices share. Tokens can be narrowed to groups.",
	one: "group",
	search: "Search groups",
	create: "Create group",
	columns: { name: "Group", devices: "Devices", created: "Created", actions: "Actions" },
	devices: (n: number) => count(n, "device"),
	showDevices: (name: string) => `Show the devices of ${name}`,
	menu: (name: string) => `Actions for ${name}`,
	rename: "Rename…",
	delete: "Delete…",
	notEmpty: "Only an empty group can be deleted",
	name: "Name",
	nameHelp: "a–z, 0–9 and -.",
	creating: {
		title: "Create a group",
		text: "A group is also made when a device is added or moved to a new name.",
		button: "Create",
		done: (name: string) => `The group ${name} was created`,
	},
	renaming: {
		title: (name: string) => `Rename ${name}`,
		devices: (n: number) => (n === 0 ? "It has no devices." : `Its ${count(n, "device")} stay in it.`),
		tokens:
			"Tokens name groups by name. Access tokens for the old name reach its devices no longer, and what is open by them is cut at once. Registration tokens for the old name go on adding devices to a group of that name, and make it anew. Make new tokens after renaming.",
		button: "Rename",
		done: (from: string, to: string) => `${from} is now ${to}`,
	},
	deleting: {
		title: (name: string) => `Delete the group ${name}?`,
		text: "It has no devices. Tokens that name it stay as they are, and count again for a group that is made with the same name.",
		button: "Delete the group",
		done: (name: string) => `The group ${name} was deleted`,
	},
	taken: "There is a group of this name already.",
	none: {
		title: "No groups yet",
		text: "Devices that are added without a group go to “default”. Create groups to say who may reach what.",
	},
	noMatch: { title: "Nothing matches", text: "No group has this in its name." },
} as const;
