import { Anchor, Button, Select } from "@mantine/core";
import { IconArrowUp } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import type { GatewayEvent } from "../api/client";
import { eventTypes } from "../api/live";
import { eventsQuery } from "../api/queries";
import { t } from "../strings";
import { Empty, Filters } from "../ui/filters";
import { Page, Panel } from "../ui/page";
import { PickDevice } from "../ui/pick";
import { nothing, Status, type Tone } from "../ui/status";
import { type Column, Pager, Table } from "../ui/table";
import { Time } from "../ui/time";
import { oneOf, sizeOf, textOf, useUrlState } from "../ui/urlState";
import classes from "./records.module.css";

const tones: Partial<Record<string, Tone>> = {
	"device.registered": "good",
	"device.online": "good",
	"session.started": "good",
	"device.quarantined": "bad",
	"device.key_retired": "bad",
	"device.deleted": "warn",
	"device.key_changed": "warn",
	"device.single_use_key": "warn",
	"token.revoked": "warn",
};

/** Whether the reader looks at the top of the page, so that what comes there moves nothing under their eyes. */
const atTop = () => window.scrollY < 40;

export function EventsPage() {
	const [url, set] = useUrlState();
	const type = oneOf(url.type, eventTypes);
	const device = textOf(url.device, 64);
	const cursor = textOf(url.cursor);
	const size = sizeOf(url.size);
	const filter = {
		limit: size,
		...(type ? { type } : {}),
		...(device ? { device_id: device } : {}),
		...(cursor ? { cursor } : {}),
	};
	const events = useQuery(eventsQuery(filter));
	const { rows, fresh, show } = useHeldBack(events.data?.items, JSON.stringify(filter), events.isPlaceholderData);
	const c = t.events.columns;

	const columns: Column<GatewayEvent>[] = [
		{ id: "at", title: c.at, width: "9rem", cell: (e) => <Time at={e.at} /> },
		{
			id: "type",
			title: c.type,
			width: "13rem",
			cell: (e) => (
				<div className={classes.two}>
					<Status tone={tones[e.type] ?? "off"}>
						{e.type in t.events.types ? t.events.types[e.type as keyof typeof t.events.types] : e.type}
					</Status>
					<span className={`${classes.under} ${classes.narrow} ${classes.message}`}>{e.message}</span>
				</div>
			),
		},
		{
			id: "device",
			title: c.device,
			from: "md",
			cell: (e) =>
				e.device_id ? (
					<Anchor inherit renderRoot={(p) => <Link to="/devices/$id" params={{ id: e.device_id ?? "" }} {...p} />}>
						{e.device_name || e.device_id}
					</Anchor>
				) : (
					nothing
				),
		},
		{ id: "message", title: c.message, from: "md", cell: (e) => <div className={classes.message}>{e.message}</div> },
	];

	return (
		<Page title={t.events.title} lead={t.events.lead}>
			<Filters>
				<Select
					aria-label={t.events.type}
					placeholder={t.events.anyType}
					clearable
					searchable
					clearButtonProps={{ "aria-label": `${t.common.clear}: ${t.events.type}` }}
					data={eventTypes.map((value) => ({ value, label: t.events.types[value] }))}
					value={type ?? null}
					onChange={(v) => set({ type: v ?? undefined, cursor: undefined })}
					nothingFoundMessage={t.common.nothingFound}
					w={220}
				/>
				<PickDevice
					label={t.events.device}
					placeholder={t.events.anyDevice}
					value={device}
					onChange={(v) => set({ device: v, cursor: undefined })}
				/>
			</Filters>
			{fresh > 0 && !cursor && (
				<div className={classes.fresh}>
					<Button
						size="compact-md"
						radius="xl"
						leftSection={<IconArrowUp size={15} />}
						onClick={() => {
							show();
							window.scrollTo({ top: 0 });
						}}
					>
						{t.events.fresh(fresh)}
					</Button>
				</div>
			)}
			<Panel flush>
				<Table
					label={t.events.table}
					columns={columns}
					rows={rows}
					id={(e) => e.id}
					error={events.error}
					onRetry={() => events.refetch()}
					stale={events.isPlaceholderData}
					empty={
						type || device ? (
							<Empty title={t.events.empty.filteredTitle} text={t.events.empty.filteredText}>
								<Button
									variant="default"
									onClick={() => set({ type: undefined, device: undefined, cursor: undefined })}
								>
									{t.events.empty.clear}
								</Button>
							</Empty>
						) : (
							<Empty title={t.events.empty.title} text={t.events.empty.text} />
						)
					}
				/>
				<Pager
					summary={rows && t.events.total(rows.length, cursor !== undefined || events.data?.next_cursor !== undefined)}
					cursor={cursor}
					nextCursor={events.data?.next_cursor}
					onGo={(cursor) => set({ cursor })}
					size={size}
					onSize={(n) => set({ size: n === 25 ? undefined : n, cursor: undefined })}
				/>
			</Panel>
		</Page>
	);
}

/**
 * Rows of a list whose newest come first, without those that came while the reader
 * was further down: `fresh` is how many those are, and `show` shows them.
 */
function useHeldBack(items: GatewayEvent[] | undefined, list: string, stale: boolean) {
	const [seen, setSeen] = useState<{ list: string; items: GatewayEvent[] }>();
	if (items && !stale && seen?.items !== items && (seen?.list !== list || atTop())) setSeen({ list, items });
	const known = new Set(seen?.items.map((e) => e.id));
	return {
		rows: seen?.items ?? items,
		fresh: items && seen?.list === list ? items.filter((e) => !known.has(e.id)).length : 0,
		show: () => items && setSeen({ list, items }),
	};
}
