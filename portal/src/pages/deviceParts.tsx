import { ActionIcon, Autocomplete, type AutocompleteProps, Tooltip } from "@mantine/core";
import { IconTerminal2 } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import type { Device, Schemas } from "../api/client";
import { groupsQuery } from "../api/queries";
import { t } from "../strings";
import { rememberClick } from "../terminal/open";
import { Lazy } from "../ui/lazy";
import { nothing, type Tone } from "../ui/status";

/** What a device is called for people: its display name, or its name. */
export const calling = (d: Device) => d.display_name || d.name;

export const toneOf: Record<Device["status"], Tone> = {
	online: "good",
	offline: "off",
	disabled: "warn",
	quarantined: "bad",
};

/** "Linux, arm64". What an agent says of itself is untrusted text. */
export function systemOf(d: Device) {
	return [d.os, d.arch].filter(Boolean).join(", ") || nothing;
}

/** The port that a tunnel is reached by; 0 if its destination can't be read. */
export function portOf(tunnel: Schemas["Tunnel"]): number {
	const m = /^([a-z]+):\/\/.*?(?::(\d{1,5}))?\/?$/.exec(tunnel.destination);
	if (!m) return 0;
	return Number(m[2] ?? { http: 80, https: 443 }[m[1] ?? ""] ?? 0);
}

/** Whether an SSH server answers there: the agent's own, or one where sshd usually is. */
export const speaksSsh = (tunnel: Schemas["Tunnel"]) => tunnel.ssh || portOf(tunnel) === 22;

/** A tunnel in few words: "22 ssh", "5432", "192.168.1.5:80". */
export function tunnelLabel(tunnel: Schemas["Tunnel"]): string {
	const place = tunnel.destination
		.replace(/^tcp:\/\//, "")
		.replace(/^([a-z]+:\/\/)?(localhost|127\.0\.0\.1|\[::1\]):/, "$1");
	return tunnel.ssh ? `${place} ssh` : place;
}

/** Why no terminal can be opened on a device; undefined if one can. */
export function noTerminal(d: Device): string | undefined {
	if (d.status !== "online") return t.devices.noTerminal[d.status];
	return d.tunnels.some(speaksSsh) ? undefined : t.devices.noTerminal.noSsh;
}

/** Opens a device's terminal in a tab of its own, or says why there is none. */
export function TerminalIcon({ device }: { device: Device }) {
	const why = noTerminal(device);
	const label = t.devices.terminal(calling(device));
	const icon = why ? (
		// Can be reached by keyboard all the same: the reason is for everybody.
		<ActionIcon
			variant="subtle"
			color="gray"
			size={30}
			aria-disabled
			data-disabled
			aria-label={`${label}. ${why}`}
			onClick={(e) => e.preventDefault()}
		>
			<IconTerminal2 size={18} />
		</ActionIcon>
	) : (
		<ActionIcon
			component="a"
			href={`/terminal/${device.id}`}
			onClick={() => rememberClick(device.id)}
			target="_blank"
			rel="noopener"
			variant="subtle"
			size={30}
			aria-label={label}
		>
			<IconTerminal2 size={18} />
		</ActionIcon>
	);
	return (
		<Lazy>
			{(ready) =>
				ready ? (
					<Tooltip label={why ?? label} multiline maw={320}>
						{icon}
					</Tooltip>
				) : (
					icon
				)
			}
		</Lazy>
	);
}

const reserved = ["admin", "api", "gateway", "localhost", "portal", "socketxp", "www"];

/** What a device name and a group must look like. */
export const isLabel = (s: string) => /^[a-z0-9][a-z0-9-]{0,62}$/.test(s);

export const isDeviceName = (s: string) => isLabel(s) && !reserved.includes(s);

/** A field for a group: one that is there, or a new one. */
export function GroupInput(props: Omit<AutocompleteProps, "data">) {
	const groups = useQuery(groupsQuery).data ?? [];
	return (
		<Autocomplete
			data={groups.map((g) => g.name)}
			limit={30}
			maxLength={63}
			spellCheck={false}
			autoComplete="off"
			openOnFocus={false}
			{...props}
		/>
	);
}
