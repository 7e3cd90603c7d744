import { ActionIcon, Alert, Anchor, Button, Group, Text, Tooltip } from "@mantine/core";
import {
	IconAlertTriangle,
	IconBan,
	IconChevronDown,
	IconChevronRight,
	IconCircleCheck,
	IconPlus,
} from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { api, ask, type Token } from "../api/client";
import { deviceQuery, meQuery, queryClient, recentTokensQuery, tokensQuery } from "../api/queries";
import { t } from "../strings";
import { Confirm, withFreshPassword } from "../ui/dialogs";
import { Choices, Empty, Filters } from "../ui/filters";
import { Facts, Page, Panel } from "../ui/page";
import { shortId } from "../ui/pick";
import { Status, Tag, type Tone } from "../ui/status";
import { type Column, Pager, Table } from "../ui/table";
import { Time } from "../ui/time";
import { done, doUnlessUndone } from "../ui/toast";
import { oneOf, sizeOf, textOf, useUrlState } from "../ui/urlState";
import { CreateToken } from "./createToken";
import { type Kind, kinds, revocable, scopeWords, showable } from "./tokenRules";
import classes from "./tokens.module.css";
import { TokenText } from "./tokenText";

const tones: Record<Token["state"], Tone> = {
	live: "good",
	used_up: "off",
	expired: "off",
	revoked: "bad",
	withdrawn: "bad",
	unconfirmed: "warn",
};

export function TokensPage() {
	const [url, set] = useUrlState();
	const kind = oneOf(url.kind, kinds);
	const all = url.state === "all";
	const cursor = textOf(url.cursor);
	const size = sizeOf(url.size);
	const open = textOf(url.open, 64);
	const me = useQuery(meQuery).data;
	const tokens = useQuery(
		tokensQuery({
			limit: size,
			...(kind ? { kind } : {}),
			...(all ? {} : { live: true }),
			...(cursor ? { cursor } : {}),
		}),
	);
	const recent = useQuery(recentTokensQuery).data?.items ?? [];
	const unconfirmed = recent.filter((r) => r.state === "unconfirmed").length;
	const [revoking, setRevoking] = useState<ReadonlySet<string>>(new Set());
	const [confirming, setConfirming] = useState<Token>();
	const creating = url.new === undefined ? undefined : (oneOf(url.new, kinds) ?? "registration");
	const may = (right: string) => me?.rights.includes(right) ?? false;
	const create = (kind: Kind) => set({ new: kind });

	const revoke = async (token: Token) => {
		setRevoking((old) => new Set(old).add(token.id));
		const back = () =>
			setRevoking((old) => {
				const next = new Set(old);
				next.delete(token.id);
				return next;
			});
		const ends = await whatEnds(token).catch(() => "");
		doUnlessUndone(
			t.tokens.revoke.pending(token.name, ends),
			async () => {
				await ask(api.POST("/api/v1/tokens/{id}/revoke", { params: { path: { id: token.id } } }));
				done(t.tokens.revoke.done(token.name));
				await queryClient.invalidateQueries({ queryKey: ["tokens"] });
				back();
			},
			back,
		);
	};

	const c = t.tokens.columns;
	const columns: Column<Token>[] = [
		{
			id: "expand",
			title: c.expand,
			quietTitle: true,
			width: "1px",
			cell: (token) => {
				const is = token.id === open;
				return (
					<ActionIcon
						variant="subtle"
						color="gray"
						size={28}
						aria-expanded={is}
						aria-label={is ? t.tokens.collapse(token.name) : t.tokens.expand(token.name)}
						onClick={() => set({ open: is ? undefined : token.id }, true)}
					>
						{is ? <IconChevronDown size={16} /> : <IconChevronRight size={16} />}
					</ActionIcon>
				);
			},
		},
		{
			id: "name",
			title: c.name,
			cell: (token) => (
				<div className={classes.name}>
					<span>{token.name}</span>
					<span className={`${classes.under} ${classes.narrow}`}>{t.tokens.kinds[token.kind]}</span>
				</div>
			),
		},
		{
			id: "kind",
			title: c.kind,
			from: "md",
			cell: (token) => (
				<Tag {...(token.kind === "basic" ? { tone: "warn" as const } : {})}>{t.tokens.kinds[token.kind]}</Tag>
			),
		},
		{
			id: "scope",
			title: c.scope,
			from: "md",
			cell: (token) => <div className={classes.scope}>{scopeWords(token)}</div>,
		},
		{
			id: "by",
			title: c.by,
			from: "lg",
			cell: (token) => (
				<div className={classes.made}>
					<Time at={token.created_at} />
					<span className={classes.under}>{makerOf(token, me?.user.id)}</span>
				</div>
			),
		},
		{ id: "expires", title: c.expires, from: "md", cell: (token) => <Time at={token.expires_at} /> },
		{
			id: "used",
			title: c.used,
			from: "lg",
			cell: (token) => (
				<div className={classes.made}>
					<Time at={token.last_used_at} />
					{token.max_uses > 0 && (
						<span className={`numbers ${classes.under}`}>{t.tokens.uses(token.uses, token.max_uses)}</span>
					)}
				</div>
			),
		},
		{
			id: "state",
			title: c.state,
			cell: (token) =>
				revoking.has(token.id) && token.state !== "revoked" ? (
					<Status tone="warn" pulse>
						{t.tokens.states.revoking}
					</Status>
				) : (
					<Status tone={tones[token.state]}>{t.tokens.states[token.state]}</Status>
				),
		},
		{
			id: "actions",
			title: c.actions,
			quietTitle: true,
			align: "right",
			from: "md",
			cell: (token) => (
				<Group gap={4} justify="flex-end" wrap="nowrap">
					{token.state === "unconfirmed" && may("tokens:admin") && (
						<Tooltip label={t.tokens.unconfirmed.confirm}>
							<ActionIcon
								variant="subtle"
								size={28}
								aria-label={t.tokens.unconfirmed.confirmName(token.name)}
								onClick={() => setConfirming(token)}
							>
								<IconCircleCheck size={16} />
							</ActionIcon>
						</Tooltip>
					)}
					{revocable(token) && may("tokens:write") && (
						<Tooltip label={t.tokens.revoke.button}>
							<ActionIcon
								variant="subtle"
								color="red"
								size={28}
								aria-label={t.tokens.revoke.name(token.name)}
								disabled={revoking.has(token.id)}
								onClick={() => revoke(token)}
							>
								<IconBan size={16} />
							</ActionIcon>
						</Tooltip>
					)}
				</Group>
			),
		},
	];

	return (
		<Page
			title={t.tokens.title}
			lead={t.tokens.lead}
			actions={
				may("tokens:write") && (
					<Button leftSection={<IconPlus size={16} />} onClick={() => create(kind ?? "registration")}>
						{t.tokens.create}
					</Button>
				)
			}
		>
			{unconfirmed > 0 && (
				<Alert
					color="yellow"
					variant="light"
					icon={<IconAlertTriangle size={18} />}
					title={t.tokens.unconfirmed.title(unconfirmed)}
				>
					<Text size="sm">{t.tokens.unconfirmed.text}</Text>
					{!all && (
						<Button
							mt="xs"
							size="compact-sm"
							variant="default"
							onClick={() => set({ state: "all", kind: undefined, cursor: undefined })}
						>
							{t.tokens.unconfirmed.show}
						</Button>
					)}
				</Alert>
			)}
			<Filters>
				<Choices
					label={t.tokens.kindsLabel}
					value={kind ?? "all"}
					onChange={(v) => set({ kind: v === "all" ? undefined : v, cursor: undefined })}
					words={[["all", t.tokens.kinds.all], ...kinds.map((k) => [k, t.tokens.kinds[k]] as const)]}
				/>
				<Choices
					label={t.tokens.whichLabel}
					value={all ? "all" : "live"}
					onChange={(v) => set({ state: v === "all" ? "all" : undefined, cursor: undefined })}
					words={[
						["live", t.tokens.which.live],
						["all", t.tokens.which.all],
					]}
				/>
			</Filters>
			<Panel flush>
				<Table
					label={t.tokens.table}
					columns={columns}
					rows={tokens.data?.items}
					id={(r) => r.id}
					name={(r) => r.name}
					error={tokens.error}
					onRetry={() => tokens.refetch()}
					stale={tokens.isPlaceholderData}
					isExpanded={(r) => r.id === open}
					expanded={(r) => (
						<Details
							token={r}
							recent={recent}
							revoking={revoking.has(r.id)}
							{...(may("tokens:write") ? { onRevoke: () => revoke(r) } : {})}
							{...(may("tokens:admin") ? { onConfirm: () => setConfirming(r) } : {})}
						/>
					)}
					empty={
						recent.length > 0 ? (
							<Empty
								title={all ? t.tokens.empty.noneTitle : t.tokens.empty.liveTitle}
								text={all ? t.tokens.empty.noneText : t.tokens.empty.liveText}
							>
								<Button
									variant="default"
									onClick={() => set({ state: "all", cursor: undefined, ...(all ? { kind: undefined } : {}) })}
								>
									{all ? t.tokens.empty.showEvery : t.tokens.empty.showAll}
								</Button>
							</Empty>
						) : (
							<Empty title={t.tokens.empty.title} text={t.tokens.empty.text}>
								{may("tokens:write") && (
									<Button variant="light" onClick={() => create("registration")}>
										{t.tokens.empty.registration}
									</Button>
								)}
							</Empty>
						)
					}
				/>
				<Pager
					summary={
						tokens.data &&
						t.tokens.total(tokens.data.items.length, cursor !== undefined || tokens.data.next_cursor !== undefined)
					}
					cursor={cursor}
					nextCursor={tokens.data?.next_cursor}
					onGo={(c) => set({ cursor: c, open: undefined })}
					size={size}
					onSize={(n) => set({ size: n === 25 ? undefined : n, cursor: undefined })}
				/>
			</Panel>
			{me && (
				<CreateToken
					kind={creating}
					me={me}
					device={textOf(url.device, 64)}
					group={textOf(url.group, 63)}
					onKind={(kind) => set({ new: kind }, true)}
					onClose={() => set({ new: undefined, device: undefined, group: undefined }, true)}
				/>
			)}
			<Confirm
				title={t.tokens.unconfirmed.dialog}
				button={t.tokens.unconfirmed.confirm}
				opened={confirming !== undefined}
				onClose={() => setConfirming(undefined)}
				act={async () => {
					if (!confirming) return;
					await withFreshPassword(() =>
						ask(api.POST("/api/v1/tokens/{id}/confirm", { params: { path: { id: confirming.id } } })),
					);
					await queryClient.invalidateQueries({ queryKey: ["tokens"] });
					done(t.tokens.unconfirmed.done(confirming.name));
				}}
			>
				<Text size="sm">{t.tokens.unconfirmed.why(confirming?.name ?? "")}</Text>
			</Confirm>
		</Page>
	);
}

/** Which tokens and sessions end with a token, in words. */
async function whatEnds(token: Token): Promise<string> {
	const ids = new Set([token.id]);
	const all = await queryClient.fetchQuery(recentTokensQuery);
	for (let grown = true; grown; ) {
		const more = all.items.filter((c) => revocable(c) && c.parent_id && ids.has(c.parent_id) && !ids.has(c.id));
		for (const c of more) ids.add(c.id);
		grown = more.length > 0;
	}
	const live = await ask(api.GET("/api/v1/sessions", { params: { query: { live: "true", limit: 200 } } }));
	return t.tokens.revoke.ends(ids.size - 1, live.items.filter((s) => ids.has(s.token_id)).length);
}

function makerOf(token: Token, me: string | undefined): string {
	return token.created_by === me ? t.common.you : shortId(token.created_by);
}

/** What the table has no room for, and the token itself. */
function Details({
	token,
	recent,
	revoking,
	onRevoke,
	onConfirm,
}: {
	token: Token;
	recent: readonly Token[];
	revoking: boolean;
	onRevoke?: () => void;
	onConfirm?: () => void;
}) {
	const me = useQuery(meQuery).data;
	const d = t.tokens.details;
	const { scope, kind } = token;
	const parent = recent.find((r) => r.id === token.parent_id);
	const help = token.state in t.tokens.statesHelp && t.tokens.statesHelp[token.state as "used_up"];
	const facts: [string, React.ReactNode][] = [
		[d.scope, scopeWords(token)],
		[d.created, <Time key="c" at={token.created_at} absolute />],
		[d.by, makerOf(token, me?.user.id)],
		[d.expires, <Time key="e" at={token.expires_at} absolute />],
		[d.used, <Time key="u" at={token.last_used_at} />],
	];
	if (token.revoked_at) facts.push([d.revoked, <Time key="r" at={token.revoked_at} absolute />]);
	if (token.parent_id) facts.push([d.parent, parent?.name ?? shortId(token.parent_id)]);
	if (scope.devices?.length)
		facts.push([
			d.devices,
			<Group key="d" gap={6}>
				{scope.devices.map((id) => (
					<DeviceLink key={id} id={id} />
				))}
			</Group>,
		]);
	if (scope.rights?.length && (kind === "api" || kind === "basic"))
		facts.push([
			d.rights,
			scope.rights.map((r) => (r in t.rights ? t.rights[r as keyof typeof t.rights] : r)).join(" · "),
		]);
	facts.push([
		d.id,
		<span key="i" className="mono">
			{token.id}
		</span>,
	]);
	return (
		<div className={classes.more}>
			{help && <p className={classes.note}>{help}</p>}
			{showable(token) ? (
				me && (token.created_by === me.user.id || me.role === "owner") ? (
					<TokenText token={token} />
				) : (
					<p className={classes.note}>{t.tokens.reveal.notYours}</p>
				)
			) : (
				token.state !== "unconfirmed" && <p className={classes.note}>{t.tokens.reveal.notShowable}</p>
			)}
			<Facts facts={facts} />
			<div className={classes.revoke}>
				{kind !== "registration" && (
					<Anchor
						size="sm"
						renderRoot={(p) => <Link to="/sessions" search={{ token: token.id, state: "all" }} {...p} />}
					>
						{d.sessions}
					</Anchor>
				)}
				{token.state === "unconfirmed" && onConfirm && (
					<Button size="compact-sm" variant="light" onClick={onConfirm}>
						{t.tokens.unconfirmed.confirm}
					</Button>
				)}
				{revocable(token) && onRevoke && (
					<>
						<Button size="compact-sm" variant="light" color="red" disabled={revoking} onClick={onRevoke}>
							{t.tokens.revoke.button}
						</Button>
						<span className={classes.note}>{t.tokens.revoke.help[kind]}</span>
					</>
				)}
			</div>
		</div>
	);
}

function DeviceLink({ id }: { id: string }) {
	const device = useQuery({ ...deviceQuery(id), retry: false }).data;
	return (
		<Anchor size="sm" renderRoot={(p) => <Link to="/devices/$id" params={{ id }} {...p} />}>
			{device ? device.display_name || device.name : shortId(id)}
		</Anchor>
	);
}
