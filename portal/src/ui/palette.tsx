import { useDebouncedValue } from "@mantine/hooks";
import { Spotlight, spotlight } from "@mantine/spotlight";
import { IconSearch, IconTerminal2 } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { useState } from "react";
import { devicesQuery } from "../api/queries";
import { t } from "../strings";
import { openTerminal } from "../terminal/open";
import classes from "./palette.module.css";
import { pages } from "./shell";
import { Dot } from "./status";

/** Ctrl-K: jumps to a device, to its terminal, or to a page. */
export function Palette() {
	const [query, setQuery] = useState("");
	const [search] = useDebouncedValue(query.trim(), 120);
	const [shown, setShown] = useState(false);
	const navigate = useNavigate();
	const devices = useQuery({
		...devicesQuery({ limit: 8, ...(search ? { search } : { sort: "-last_seen_at" }) }),
		enabled: shown,
	});
	const words = query.trim().toLowerCase();
	const found = pages.flatMap((s) => s.items).filter((i) => i.label.toLowerCase().includes(words));
	// What was found for the text before is not meant any more, unless it still fits.
	const stale = devices.isPlaceholderData || search !== query.trim();
	const items = (devices.data?.items ?? []).filter(
		(d) => !stale || `${d.display_name} ${d.name}`.toLowerCase().includes(words),
	);
	const go = (f: () => void) => () => {
		spotlight.close();
		f();
	};
	return (
		<Spotlight.Root
			query={query}
			onQueryChange={setQuery}
			onSpotlightOpen={() => setShown(true)}
			onSpotlightClose={() => setShown(false)}
			shortcut={["mod + K"]}
			scrollable
			maxHeight={420}
			radius="lg"
			attributes={{ content: { "aria-label": t.shell.searchHelp } }}
		>
			<Spotlight.Search
				placeholder={t.shell.palette.placeholder}
				aria-label={t.shell.palette.placeholder}
				leftSection={<IconSearch size={18} />}
			/>
			<Spotlight.ActionsList>
				{items.length > 0 && (
					<Spotlight.ActionsGroup label={t.shell.palette.devices}>
						{items.map((d) => (
							<Spotlight.Action key={d.id} onClick={go(() => navigate({ to: "/devices/$id", params: { id: d.id } }))}>
								<span className={classes.device}>
									<Dot tone={d.status === "online" ? "good" : d.status === "offline" ? "off" : "bad"} />
									<span className="truncate">{d.display_name || d.name}</span>
									<span className="quiet">{d.group}</span>
								</span>
							</Spotlight.Action>
						))}
						{items
							.filter((d) => words && d.status === "online")
							.slice(0, 3)
							.map((d) => (
								<Spotlight.Action key={`terminal-${d.id}`} onClick={go(() => openTerminal(d.id))}>
									<span className={classes.device}>
										<IconTerminal2 size={16} aria-hidden />
										{t.shell.palette.openTerminal(d.display_name || d.name)}
									</span>
								</Spotlight.Action>
							))}
					</Spotlight.ActionsGroup>
				)}
				{found.length > 0 && (
					<Spotlight.ActionsGroup label={t.shell.palette.pages}>
						{found.map((i) => (
							<Spotlight.Action key={i.to} onClick={go(() => navigate({ to: i.to }))}>
								<span className={classes.device}>
									<i.icon size={16} />
									{i.label}
								</span>
							</Spotlight.Action>
						))}
					</Spotlight.ActionsGroup>
				)}
				{items.length === 0 && found.length === 0 && <Spotlight.Empty>{t.shell.palette.nothing}</Spotlight.Empty>}
			</Spotlight.ActionsList>
		</Spotlight.Root>
	);
}
