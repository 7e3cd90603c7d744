import { ActionIcon, Alert, Button, Menu, Select, Text } from "@mantine/core";
import { IconChevronDown, IconChevronRight, IconDownload, IconShieldCheck, IconShieldX } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { ApiError, type AuditRecord, api, ask, type Me, type Schemas, sentence, toApiError } from "../api/client";
import { auditQuery, meQuery } from "../api/queries";
import { t } from "../strings";
import { CopyBox } from "../ui/copy";
import { csvLine } from "../ui/csv";
import { Empty, Filters } from "../ui/filters";
import { Facts, Page, Panel } from "../ui/page";
import { PickDevice, shortId } from "../ui/pick";
import { Problem } from "../ui/problem";
import { saveFile } from "../ui/save";
import { nothing, Status } from "../ui/status";
import { type Column, Pager, Table } from "../ui/table";
import { Time, utc } from "../ui/time";
import { done, failed } from "../ui/toast";
import { sizeOf, textOf, useUrlState } from "../ui/urlState";
import { useAct } from "../ui/useAct";
import classes from "./records.module.css";
import { reasonWords } from "./sessions";

const actionWords = (action: string): string => t.audit.actions[action] ?? action;

/** Who acted: a person, a device, or the gateway's console. */
function who(r: AuditRecord, me: Me | undefined): string {
	if (r.user_id) return r.user_id === me?.user.id ? t.audit.you : shortId(r.user_id);
	if (r.device_id)
		return r.object_kind === "device" && r.object_id === r.device_id && r.object_name
			? r.object_name
			: shortId(r.device_id);
	return "";
}

/** A session's end carries why it ended; that is no refusal. */
function result(r: AuditRecord) {
	if (!r.reason) return <Status tone="good">{t.audit.done}</Status>;
	if (r.action === "session.end") return <Status tone="warn">{reasonWords(r.reason)}</Status>;
	return <Status tone="bad">{t.audit.refused(r.reason)}</Status>;
}

export function AuditPage() {
	const [url, set] = useUrlState();
	const action = textOf(url.action, 64);
	const actor = textOf(url.actor, 64);
	const cursor = textOf(url.cursor);
	const size = sizeOf(url.size);
	const open = textOf(url.open, 20);
	const me = useQuery(meQuery).data;
	const audit = useQuery({
		...auditQuery({
			limit: size,
			...(action ? { action } : {}),
			...(actor ? { actor_id: actor } : {}),
			...(cursor ? { cursor } : {}),
		}),
		refetchInterval: cursor ? false : 15_000,
	});
	const chain = useVerification();
	const c = t.audit.columns;
	const actions = Object.entries(t.audit.actions).map(([value, label]) => ({ value, label }));
	if (action && !(action in t.audit.actions)) actions.unshift({ value: action, label: action });

	const columns: Column<AuditRecord>[] = [
		{
			id: "expand",
			title: c.expand,
			quietTitle: true,
			width: "1px",
			cell: (r) => {
				const is = String(r.seq) === open;
				return (
					<ActionIcon
						variant="subtle"
						color="gray"
						size={28}
						aria-expanded={is}
						aria-label={is ? t.audit.collapse(r.seq) : t.audit.expand(r.seq)}
						onClick={() => set({ open: is ? undefined : r.seq }, true)}
					>
						{is ? <IconChevronDown size={16} /> : <IconChevronRight size={16} />}
					</ActionIcon>
				);
			},
		},
		{ id: "seq", title: c.seq, from: "lg", cell: (r) => <span className="quiet numbers">{r.seq}</span> },
		{ id: "at", title: c.at, from: "md", cell: (r) => <Time at={r.at} /> },
		{
			id: "action",
			title: c.action,
			cell: (r) => (
				<div className={classes.two}>
					<span>{actionWords(r.action)}</span>
					<span className={`${classes.under} ${classes.narrow}`}>
						<Time at={r.at} />
					</span>
				</div>
			),
		},
		{
			id: "who",
			title: c.who,
			from: "md",
			cell: (r) => (
				<div className={classes.two}>
					<span>{who(r, me) || kindWords(r.actor_kind)}</span>
					{who(r, me) !== "" && <span className={classes.under}>{kindWords(r.actor_kind)}</span>}
				</div>
			),
		},
		{
			id: "object",
			title: c.object,
			from: "md",
			cell: (r) =>
				r.object_name || r.object_id ? (
					<div className={classes.two}>{r.object_name || shortId(r.object_id ?? "")}</div>
				) : (
					nothing
				),
		},
		{ id: "result", title: c.result, cell: result },
		{
			id: "from",
			title: c.from,
			from: "lg",
			cell: (r) => (r.remote_addr ? <span className="mono">{r.remote_addr}</span> : nothing),
		},
	];

	return (
		<Page
			title={t.audit.title}
			lead={t.audit.lead}
			actions={
				<>
					<Button
						variant="default"
						leftSection={<IconShieldCheck size={16} />}
						loading={chain.busy}
						onClick={chain.verify}
					>
						{t.audit.verify.button}
					</Button>
					<Exports />
				</>
			}
		>
			<Problem error={chain.error} onRetry={chain.verify} />
			{chain.result && <Verdict result={chain.result} />}
			<Filters>
				<Select
					aria-label={t.audit.action}
					placeholder={t.audit.anyAction}
					clearable
					searchable
					clearButtonProps={{ "aria-label": `${t.common.clear}: ${t.audit.action}` }}
					data={actions}
					value={action ?? null}
					onChange={(v) => set({ action: v ?? undefined, cursor: undefined, open: undefined })}
					nothingFoundMessage={t.common.nothingFound}
					maxDropdownHeight={320}
					w={240}
				/>
				<PickDevice
					label={t.audit.actor}
					placeholder={t.audit.anybody}
					extra={me ? [{ value: me.user.id, label: t.audit.you }] : []}
					value={actor}
					onChange={(v) => set({ actor: v, cursor: undefined, open: undefined })}
				/>
			</Filters>
			<Panel flush>
				<Table
					label={t.audit.table}
					columns={columns}
					rows={audit.data?.items}
					id={(r) => String(r.seq)}
					error={audit.error}
					onRetry={() => audit.refetch()}
					stale={audit.isPlaceholderData}
					isExpanded={(r) => String(r.seq) === open}
					expanded={(r) => <Details record={r} me={me} />}
					empty={
						<Empty title={t.audit.empty.title} text={t.audit.empty.text}>
							<Button variant="default" onClick={() => set({ action: undefined, actor: undefined, cursor: undefined })}>
								{t.audit.empty.clear}
							</Button>
						</Empty>
					}
				/>
				<Pager
					summary={
						audit.data &&
						t.audit.total(audit.data.items.length, cursor !== undefined || audit.data.next_cursor !== undefined)
					}
					cursor={cursor}
					nextCursor={audit.data?.next_cursor}
					onGo={(cursor) => set({ cursor, open: undefined })}
					size={size}
					onSize={(n) => set({ size: n === 25 ? undefined : n, cursor: undefined })}
				/>
			</Panel>
		</Page>
	);
}

const kindWords = (kind: string): string => t.audit.kinds[kind] ?? kind;

function Details({ record: r, me }: { record: AuditRecord; me: Me | undefined }) {
	const d = t.audit.details;
	const mono = (s: string | undefined) => (s ? <span className="mono">{s}</span> : undefined);
	const facts: [string, React.ReactNode][] = [
		[d.action, mono(r.action)],
		[d.at, utc(new Date(r.at))],
		[d.actor, who(r, me) ? `${who(r, me)} (${kindWords(r.actor_kind)})` : kindWords(r.actor_kind)],
		[d.from, mono(r.remote_addr)],
		[d.object, r.object_name || r.object_kind ? `${r.object_kind ?? ""} ${r.object_name ?? ""}`.trim() : undefined],
	];
	if (r.object_id) facts.push([d.objectId, mono(r.object_id)]);
	if (r.user_id ?? r.device_id) facts.push([d.actorId, mono(r.user_id ?? r.device_id)]);
	if (r.credential_id) facts.push([d.credential, mono(r.credential_id)]);
	if (r.reason) facts.push([d.reason, mono(r.reason)]);
	if (r.detail) facts.push([d.detail, r.detail]);
	return (
		<div className={classes.more}>
			<Facts facts={facts} />
			<dl className={classes.hashes}>
				<dt>{d.prev}</dt>
				<dd>{mono(r.prev)}</dd>
				<dt>{d.hash}</dt>
				<dd>{mono(r.hash)}</dd>
			</dl>
		</div>
	);
}

const path = "/api/v1/audit/export";

function Exports() {
	const [busy, setBusy] = useState(false);
	const toCSV = async () => {
		setBusy(true);
		try {
			done(t.audit.exports.done(await exportCSV()));
		} catch (e) {
			failed(e);
		} finally {
			setBusy(false);
		}
	};
	return (
		<Menu width={280}>
			<Menu.Target>
				<Button variant="default" leftSection={<IconDownload size={16} />} loading={busy}>
					{t.audit.exports.button}
				</Button>
			</Menu.Target>
			<Menu.Dropdown>
				<Menu.Item component="a" href={path} download>
					{t.audit.exports.jsonl}
					<Text size="xs" c="dimmed">
						{t.audit.exports.jsonlHelp}
					</Text>
				</Menu.Item>
				<Menu.Item onClick={toCSV}>
					{t.audit.exports.csv}
					<Text size="xs" c="dimmed">
						{t.audit.exports.csvHelp}
					</Text>
				</Menu.Item>
			</Menu.Dropdown>
		</Menu>
	);
}

const csvColumns = [
	"seq",
	"at",
	"action",
	"reason",
	"actor_kind",
	"user_id",
	"device_id",
	"credential_id",
	"remote_addr",
	"object_kind",
	"object_id",
	"object_name",
	"detail",
	"prev",
	"hash",
] as const satisfies readonly (keyof AuditRecord)[];

/** Reads the export as it comes and writes it as CSV; returns how many records. One that breaks off gives no file. */
async function exportCSV(): Promise<number> {
	const response = await fetch(path, { credentials: "same-origin" }).catch(() => undefined);
	if (!response) throw new ApiError({ code: "unreachable", detail: t.audit.exports.unreachable, status: 0 });
	if (!response.ok || !response.body) throw toApiError(await response.json().catch(() => undefined), response.status);
	const parts: string[] = [csvLine(csvColumns)];
	let rest = "";
	let n = 0;
	const line = (text: string) => {
		if (text === "") return;
		const record = JSON.parse(text) as AuditRecord;
		parts.push(csvLine(csvColumns.map((c) => record[c])));
		n++;
	};
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	for (;;) {
		const { value, done } = await reader.read();
		const lines = (rest + (value ?? "")).split("\n");
		rest = lines.pop() ?? "";
		for (const l of lines) line(l);
		if (done) break;
	}
	line(rest);
	saveFile(t.audit.exports.file, parts, "text/csv;charset=utf-8");
	return n;
}

/** Has the gateway verify the chain; what came out stands over the list. */
function useVerification() {
	const [result, setResult] = useState<Schemas["AuditVerification"]>();
	const { busy, error, run } = useAct();
	const verify = () => {
		setResult(undefined);
		return run(async () => setResult(await ask(api.GET("/api/v1/audit/verify"))));
	};
	return { result, busy, error, verify };
}

function Verdict({ result }: { result: Schemas["AuditVerification"] }) {
	const v = t.audit.verify;
	return (
		<Alert
			role="status"
			color={result.ok ? "green" : "red"}
			variant="light"
			icon={result.ok ? <IconShieldCheck size={18} /> : <IconShieldX size={18} />}
			title={result.ok ? v.ok(result.records) : v.broken(result.records)}
		>
			<Text size="sm" mb="xs">
				{result.ok ? v.okText : `${sentence(result.broken ?? "")} ${v.brokenText}`}
			</Text>
			{result.last_hash && (
				<Text size="xs" fw={500} mb={4}>
					{v.hashTitle}
				</Text>
			)}
			{result.last_hash && <CopyBox text={result.last_hash} what={v.hash} wrap />}
		</Alert>
	);
}
