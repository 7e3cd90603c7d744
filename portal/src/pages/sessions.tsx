import { Anchor, Button, Select, Text, Tooltip } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { api, ask, type Session } from "../api/client";
import { meQuery, queryClient, recentTokensQuery, sessionsQuery } from "../api/queries";
import { t } from "../strings";
import { Confirm } from "../ui/dialogs";
import { Choices, Empty, Filters } from "../ui/filters";
import { Page, Panel } from "../ui/page";
import { PickDevice, shortId } from "../ui/pick";
import { Status } from "../ui/status";
import { type Column, Pager, Table } from "../ui/table";
import { Time, useNow } from "../ui/time";
import { done } from "../ui/toast";
import { bytes, duration } from "../ui/units";
import { oneOf, sizeOf, textOf, useUrlState } from "../ui/urlState";
import classes from "./records.module.css";

/** Why a session ended, in words; undefined is that the visitor left. */
export const reasonWords = (code: string | undefined): string =>
	t.sessions.reasons[code ?? "left"] ?? (code ?? "").replaceAll("_", " ");

export function SessionsPage() {
	const [url, set] = useUrlState();
	const which = oneOf(url.state, ["past", "all"]) ?? "live";
	const device = textOf(url.device, 64);
	const user = textOf(url.user, 64);
	const token = textOf(url.token, 64);
	const cursor = textOf(url.cursor);
	const size = sizeOf(url.size);
	const me = useQuery(meQuery).data;
	const names = new Map(useQuery(recentTokensQuery).data?.items.map((r) => [r.id, r.name]));
	const sessions = useQuery({
		...sessionsQuery({
			limit: size,
			...(which === "all" ? {} : { live: which === "live" ? "true" : "false" }),
			...(device ? { device_id: device } : {}),
			...(user ? { user_id: user } : {}),
			...(token ? { token_id: token } : {}),
			...(cursor ? { cursor } : {}),
		}),
		// What has gone through is counted as it goes; no event tells of it.
		refetchInterval: (q) => (q.state.data?.items.some((s) => s.live) ? 5000 : false),
	});
	const [ending, setEnding] = useState<Session>();
	const now = useNow();
	const may = me?.rights.includes("sessions:write") ?? false;
	const filtered = Boolean(device || user || token);
	const c = t.sessions.columns;
	const person = (id: string) => (id === me?.user.id ? t.sessions.you : shortId(id));

	const columns: Column<Session>[] = [
		{
			id: "device",
			title: c.device,
			cell: (s) => (
				<div className={classes.two}>
					<Anchor inherit renderRoot={(p) => <Link to="/devices/$id" params={{ id: s.device_id }} {...p} />}>
						{s.device_name}
					</Anchor>
					<span className={`mono ${classes.under} ${classes.narrow}`}>{s.destination}</span>
				</div>
			),
		},
		{
			id: "destination",
			title: c.destination,
			from: "md",
			cell: (s) => <span className="mono">{s.destination}</span>,
		},
		{
			id: "by",
			title: c.by,
			from: "lg",
			cell: (s) => (
				<div className={classes.two}>
					<span>{person(s.user_id)}</span>
					{s.token_id === "" && <span className={classes.under}>{t.sessions.terminal}</span>}
					{names.has(s.token_id) && (
						<Anchor
							className={classes.under ?? ""}
							renderRoot={(p) => <Link to="/tokens" search={{ state: "all", open: s.token_id }} {...p} />}
						>
							{names.get(s.token_id)}
						</Anchor>
					)}
				</div>
			),
		},
		{ id: "from", title: c.from, from: "md", cell: (s) => <span className="mono">{s.remote_addr}</span> },
		{ id: "started", title: c.started, from: "md", cell: (s) => <Time at={s.started_at} /> },
		{
			id: "duration",
			title: c.duration,
			from: "lg",
			cell: (s) => (
				<span className="numbers">
					{duration((s.ended_at ? Date.parse(s.ended_at) : now) - Date.parse(s.started_at))}
				</span>
			),
		},
		{
			id: "bytes",
			title: c.bytes,
			from: "md",
			align: "right",
			cell: (s) => (
				<Tooltip label={t.sessions.bytesHelp(bytes(s.bytes_up), bytes(s.bytes_down), s.links)}>
					<span className="numbers">
						{bytes(s.bytes_up)} / {bytes(s.bytes_down)}
					</span>
				</Tooltip>
			),
		},
		{
			id: "state",
			title: c.state,
			cell: (s) =>
				s.live ? (
					<Status tone="good">{t.sessions.live}</Status>
				) : (
					<Status tone={s.end_reason ? "warn" : "off"}>{reasonWords(s.end_reason)}</Status>
				),
		},
		{
			id: "actions",
			title: c.actions,
			quietTitle: true,
			align: "right",
			cell: (s) =>
				s.live &&
				may && (
					<Button
						size="compact-sm"
						variant="default"
						aria-label={t.sessions.end.name(s.device_name)}
						onClick={() => setEnding(s)}
					>
						{t.sessions.end.button}
					</Button>
				),
		},
	];

	return (
		<Page title={t.sessions.title} lead={t.sessions.lead}>
			<Filters>
				<Choices
					label={t.sessions.whichLabel}
					value={which}
					onChange={(v) => set({ state: v === "live" ? undefined : v, cursor: undefined })}
					words={[
						["live", t.sessions.which.live],
						["past", t.sessions.which.past],
						["all", t.sessions.which.all],
					]}
				/>
				<PickDevice
					label={t.sessions.device}
					placeholder={t.sessions.anyDevice}
					value={device}
					onChange={(v) => set({ device: v, cursor: undefined })}
				/>
				<Select
					aria-label={t.sessions.person}
					placeholder={t.sessions.anybody}
					clearable
					clearButtonProps={{ "aria-label": `${t.common.clear}: ${t.sessions.person}` }}
					data={[...new Set([me?.user.id, user])]
						.filter((id) => id !== undefined)
						.map((id) => ({ value: id, label: person(id) }))}
					value={user ?? null}
					onChange={(v) => set({ user: v ?? undefined, cursor: undefined })}
					w={150}
				/>
				<Select
					aria-label={t.sessions.token}
					placeholder={t.sessions.anyToken}
					clearable
					searchable
					clearButtonProps={{ "aria-label": `${t.common.clear}: ${t.sessions.token}` }}
					data={tokenChoices(names, token)}
					value={token ?? null}
					onChange={(v) => set({ token: v ?? undefined, cursor: undefined })}
					nothingFoundMessage={t.common.nothingFound}
					w={200}
				/>
			</Filters>
			<Panel flush>
				<Table
					label={t.sessions.table}
					columns={columns}
					rows={sessions.data?.items}
					id={(s) => s.id}
					name={(s) => s.device_name}
					error={sessions.error}
					onRetry={() => sessions.refetch()}
					stale={sessions.isPlaceholderData}
					empty={
						which === "live" && !filtered ? (
							<Empty title={t.sessions.empty.liveTitle} text={t.sessions.empty.liveText}>
								<Button variant="default" onClick={() => set({ state: "past" })}>
									{t.sessions.empty.past}
								</Button>
							</Empty>
						) : (
							<Empty title={t.sessions.empty.title} text={t.sessions.empty.text}>
								<Button
									variant="default"
									onClick={() =>
										set({ state: "all", device: undefined, user: undefined, token: undefined, cursor: undefined })
									}
								>
									{t.sessions.empty.showAll}
								</Button>
							</Empty>
						)
					}
				/>
				<Pager
					summary={
						sessions.data &&
						t.sessions.total(
							sessions.data.items.length,
							cursor !== undefined || sessions.data.next_cursor !== undefined,
						)
					}
					cursor={cursor}
					nextCursor={sessions.data?.next_cursor}
					onGo={(cursor) => set({ cursor })}
					size={size}
					onSize={(n) => set({ size: n === 25 ? undefined : n, cursor: undefined })}
				/>
			</Panel>
			<Confirm
				title={t.sessions.end.title}
				button={t.sessions.end.submit}
				opened={ending !== undefined}
				onClose={() => setEnding(undefined)}
				act={async () => {
					if (!ending) return;
					await ask(api.POST("/api/v1/sessions/{id}/end", { params: { path: { id: ending.id } } }));
					await queryClient.invalidateQueries({ queryKey: ["sessions"] });
					done(t.sessions.end.done(ending.device_name));
				}}
			>
				<Text size="sm">{ending && t.sessions.end.text(ending.device_name, ending.destination)}</Text>
			</Confirm>
		</Page>
	);
}

/** The tokens by name, also the one that is chosen and not among them. */
function tokenChoices(names: ReadonlyMap<string, string>, chosen: string | undefined) {
	const items = [...names].map(([value, label]) => ({ value, label }));
	return chosen && !names.has(chosen) ? [{ value: chosen, label: shortId(chosen) }, ...items] : items;
}
