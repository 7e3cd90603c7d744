import { Anchor, Button, Group, PasswordInput, Skeleton, Stack, Text, Textarea, TextInput, Title } from "@mantine/core";
import { IconArrowLeft, IconSearch } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate, useRouterState } from "@tanstack/react-router";
import { type FormEvent, Fragment, type ReactNode, useEffect, useMemo, useRef, useState } from "react";
import type { Me } from "../api/client";
import {
	build,
	curl,
	type Description,
	descriptionQuery,
	type Field,
	type Filled,
	fieldsOf,
	matches,
	type Route,
	routesByTag,
	sample,
	typeName,
} from "../api/description";
import { meQuery } from "../api/queries";
import { t } from "../strings";
import { CopyBox, CopyButton } from "../ui/copy";
import { Confirm } from "../ui/dialogs";
import { Page, Panel } from "../ui/page";
import { Problem } from "../ui/problem";
import { Shell } from "../ui/shell";
import classes from "./docs.module.css";

/** The API to read and to try: in the shell for who is signed in, and alone for others. */
export function DocsPage() {
	const me = useQuery({ ...meQuery, retry: false });
	const hash = useRouterState({ select: (s) => s.location.hash });
	if (!me.isFetched) return <div className={classes.alone} />; // and not again while it is asked anew
	if (me.data) {
		return (
			<Shell>
				<Docs me={me.data} />
			</Shell>
		);
	}
	return (
		<div className={classes.alone}>
			<header className={classes.bar}>
				<Link to="/" className={classes.brand}>
					<img src="/icon.svg" alt="" width={26} height={26} />
					{t.common.product}
				</Link>
				<Button
					variant="default"
					renderRoot={(props) => <Link to="/signin" search={{ next: `/api/docs${hash && `#${hash}`}` }} {...props} />}
				>
					{t.docs.signIn}
				</Button>
			</header>
			<main id="content">
				<Docs />
			</main>
		</div>
	);
}

function Docs({ me }: { me?: Me }) {
	const description = useQuery(descriptionQuery);
	const navigate = useNavigate();
	const id = useRouterState({ select: (s) => s.location.hash });
	const query = useRouterState({ select: (s) => String((s.location.search as { q?: unknown }).q ?? "") });
	// Kept for all routes as long as the page is open, and never written anywhere.
	const [token, setToken] = useState("");
	const field = useRef<HTMLInputElement>(null);
	useEffect(() => {
		const onKey = (e: KeyboardEvent) => {
			const at = e.target as HTMLElement;
			if (e.key !== "/" || e.ctrlKey || e.metaKey || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName)) return;
			e.preventDefault();
			field.current?.focus();
		};
		addEventListener("keydown", onKey);
		return () => removeEventListener("keydown", onKey);
	}, []);
	const d = description.data;
	const groups = useMemo(() => (d ? routesByTag(d) : []), [d]);
	const route = groups.flatMap((g) => g.routes).find((r) => r.id === id);
	const heading = useRef<HTMLHeadingElement>(null);
	// biome-ignore lint/correctness/useExhaustiveDependencies: another route is read from its beginning
	useEffect(() => {
		if (!route) return;
		scrollTo(0, 0);
		heading.current?.focus({ preventScroll: true });
	}, [route?.id]);

	const found = groups
		.map((g) => ({ ...g, routes: g.routes.filter((r) => matches(r, query.trim())) }))
		.filter((g) => g.routes.length > 0);
	const search = (q: string) =>
		navigate({ to: "/api/docs", search: q ? { q } : {}, hash: id, replace: true, hashScrollIntoView: false });
	return (
		<Page title={t.docs.title} lead={t.docs.lead}>
			{description.error && <Problem error={description.error} onRetry={() => void description.refetch()} />}
			<div className={classes.columns} data-reading={route ? true : undefined}>
				<div className={classes.side}>
					<TextInput
						ref={field}
						type="search"
						aria-label={t.docs.search}
						placeholder={t.docs.search}
						leftSection={<IconSearch size={15} />}
						value={query}
						maxLength={100}
						onChange={(e) => void search(e.currentTarget.value)}
					/>
					{!d && !description.error && <Skeleton height={320} />}
					<nav aria-label={t.docs.routes} className={classes.list}>
						{found.map((g) => (
							<section key={g.tag}>
								<h2 className={classes.tag}>{g.tag}</h2>
								{g.routes.map((r) => (
									<Link
										key={r.id}
										to="/api/docs"
										hash={r.id}
										search={query ? { q: query } : {}}
										hashScrollIntoView={false}
										className={classes.item}
										activeOptions={{ includeHash: true, includeSearch: false }}
									>
										<Method name={r.method} />
										<span>{r.op.summary}</span>
									</Link>
								))}
							</section>
						))}
						{d && found.length === 0 && (
							<Stack gap="xs" align="start" role="status">
								<Text size="sm">{t.docs.nothing}</Text>
								<Button size="compact-sm" variant="default" onClick={() => void search("")}>
									{t.docs.clear}
								</Button>
							</Stack>
						)}
					</nav>
				</div>
				<div className={classes.content}>
					{d && route && (
						<Operation
							key={route.id}
							d={d}
							route={route}
							heading={heading}
							token={token}
							{...(me ? { me } : {})}
							onToken={setToken}
						/>
					)}
					{d && !route && <Overview missing={id !== "" && id !== "content"} />}
				</div>
			</div>
		</Page>
	);
}

function Method({ name }: { name: string }) {
	return (
		<span className={classes.method} data-method={name}>
			{name === "DELETE" ? "DEL" : name}
		</span>
	);
}

function Overview({ missing }: { missing: boolean }) {
	return (
		<Stack gap="md">
			{missing && <Problem error={new Error(t.docs.missing)} />}
			<Panel title={t.docs.overview.title}>
				<Stack gap="sm">
					<Text>{t.docs.overview.text}</Text>
					<Text>{t.docs.overview.token}</Text>
					<CopyBox text={t.docs.overview.curl(location.origin)} what={t.docs.overview.what} />
					<Text c="dimmed" size="sm">
						{t.docs.overview.certificate}
					</Text>
					<Text>
						{t.docs.overview.machine}{" "}
						<Anchor href="/api/openapi.json" underline="always">
							/api/openapi.json
						</Anchor>
					</Text>
				</Stack>
			</Panel>
		</Stack>
	);
}

/** Text of the description, with what stands in backquotes as code. */
function Prose({ children }: { children: string }) {
	return children.split("`").map((part, i) =>
		i % 2 === 1 ? (
			// biome-ignore lint/suspicious/noArrayIndexKey: the parts of a text never move
			<code key={i} className="mono">
				{part}
			</code>
		) : (
			// biome-ignore lint/suspicious/noArrayIndexKey: the parts of a text never move
			<Fragment key={i}>{part}</Fragment>
		),
	);
}

function Operation({
	d,
	route,
	heading,
	me,
	token,
	onToken,
}: {
	d: Description;
	route: Route;
	me?: Me;
	heading: React.RefObject<HTMLHeadingElement | null>;
	token: string;
	onToken: (token: string) => void;
}) {
	const { op } = route;
	const body = op.requestBody?.content["application/json"]?.schema;
	const parameters = (op.parameters ?? []).filter((p) => p.in !== "cookie");
	const answers = Object.entries(op.responses).filter(([status]) => status.startsWith("2"));
	const [filled, setFilled] = useState<Filled>(() => ({
		parameters: {},
		body: body && JSON.stringify(sample(d, body, false), null, 2),
	}));
	return (
		<article className={classes.operation}>
			<Link to="/api/docs" activeOptions={{ includeHash: true }} className={classes.all}>
				<IconArrowLeft size={15} aria-hidden />
				{t.docs.all}
			</Link>
			<div>
				<Group gap={4} wrap="nowrap" align="center">
					<Title order={2} ref={heading} tabIndex={-1} className={classes.heading}>
						{op.summary}
					</Title>
					<CopyButton text={`${location.origin}/api/docs#${route.id}`} what={t.docs.link} />
				</Group>
				<p className={classes.address}>
					<Method name={route.method} /> <code>{route.path}</code>
				</p>
				{op.description && (
					<Text c="dimmed" className={classes.prose}>
						<Prose>{op.description}</Prose>
					</Text>
				)}
			</div>
			{parameters.length > 0 && (
				<Fields
					title={t.docs.parameters}
					fields={parameters.map((p) => ({
						name: p.name,
						depth: 0,
						type: `${p.in}, ${typeName(d, p.schema)}`,
						required: p.required ?? false,
						description: p.description ?? p.schema?.description ?? "",
					}))}
				/>
			)}
			{body && <Fields title={t.docs.body} fields={fieldsOf(d, body)} />}
			{answers.map(([status, a]) => {
				const media = Object.keys(a.content ?? {})[0];
				const schema = a.content?.["application/json"]?.schema;
				const title = t.docs.answer(status);
				if (!schema) {
					return (
						<Panel key={status} title={title}>
							<Text c="dimmed">{media ? t.docs.other(media) : t.docs.noContent}</Text>
						</Panel>
					);
				}
				return (
					<Fields key={status} title={title} fields={fieldsOf(d, schema)}>
						<Text size="sm" c="dimmed">
							{t.docs.example}
						</Text>
						<CopyBox text={JSON.stringify(sample(d, schema, true), null, 2)} what={t.docs.example.toLowerCase()} />
					</Fields>
				);
			})}
			<Try {...(me ? { me } : {})} route={route} filled={filled} onFilled={setFilled} token={token} onToken={onToken} />
			<Panel title={t.docs.curl}>
				<CopyBox text={curl(location.origin, route, build(route, filled))} what={t.docs.curlWhat} />
			</Panel>
		</article>
	);
}

function Fields({ title, fields, children }: { title: string; fields: Field[]; children?: ReactNode }) {
	return (
		<Panel title={title} flush>
			<dl className={classes.fields}>
				{fields.map((f, i) => (
					// biome-ignore lint/suspicious/noArrayIndexKey: a name may come again, deeper, and the list never changes
					<div key={i} className={classes.field}>
						<dt style={{ paddingLeft: `${f.depth}rem` }}>
							<code className="mono">{f.name}</code>
							<span className={classes.type}>
								{f.type}
								{f.required && <strong> · {t.docs.required}</strong>}
							</span>
						</dt>
						<dd>
							<Prose>{f.description}</Prose>
						</dd>
					</div>
				))}
			</dl>
			{children && <div className={classes.example}>{children}</div>}
		</Panel>
	);
}

/** So much of an answer is shown: a stream has no end. */
const mostShown = 256 * 1024;

interface Shown {
	state: string;
	text: string;
}

function Try({
	me,
	route,
	filled,
	onFilled,
	token,
	onToken,
}: {
	me?: Me;
	route: Route;
	filled: Filled;
	onFilled: (f: Filled) => void;
	token: string;
	onToken: (token: string) => void;
}) {
	const [missing, setMissing] = useState<string>();
	const [asking, setAsking] = useState(false);
	const [abort, setAbort] = useState<AbortController>();
	const [shown, setShown] = useState<Shown>();
	useEffect(() => () => abort?.abort(), [abort]);
	const parameters = (route.op.parameters ?? []).filter((p) => p.in !== "cookie");
	const open = route.op.security?.some((s) => Object.keys(s).length === 0);

	const send = async () => {
		const { url, headers, body } = build(route, filled);
		if (token.trim()) headers.Authorization = `Bearer ${token.trim()}`;
		const stop = new AbortController();
		setAbort(stop);
		setShown({ state: t.docs.try.sending, text: "" });
		const begun = performance.now();
		let state = "";
		try {
			const answer = await fetch(url, {
				method: route.method,
				headers,
				body: body ?? null,
				signal: stop.signal,
				credentials: token.trim() ? "omit" : "same-origin",
			});
			state = t.docs.try.took(answer.status, answer.statusText, Math.round(performance.now() - begun));
			await read(answer, (text) => setShown({ state, text }));
		} catch {
			setShown((s) => ({
				state: stop.signal.aborted ? [state, t.docs.try.stopped].join(" ").trim() : t.docs.try.unreachable,
				text: s?.text ?? "",
			}));
		} finally {
			setAbort(undefined);
		}
	};
	const submit = (e: FormEvent<HTMLFormElement>) => {
		e.preventDefault();
		const first = parameters.find((p) => p.in === "path" && !filled.parameters[p.name]?.trim());
		setMissing(first?.name);
		if (first) e.currentTarget.querySelector<HTMLInputElement>(`input[name="${first.name}"]`)?.focus();
		else if (route.method === "GET") void send();
		else setAsking(true);
	};
	let who: string = t.docs.try.out;
	if (token.trim()) who = t.docs.try.withToken;
	else if (me) who = t.docs.try.as(me.user.email, me.account.name);
	return (
		<Panel title={t.docs.try.title}>
			<form onSubmit={submit} noValidate>
				<Stack gap="md">
					<Text size="sm" c="dimmed">
						{who}
					</Text>
					<div className={classes.inputs}>
						{parameters.map((p) => (
							<TextInput
								key={p.name}
								name={p.name}
								label={p.name}
								required={p.in === "path"}
								placeholder={p.schema?.default === undefined ? "" : String(p.schema.default)}
								autoComplete="off"
								spellCheck={false}
								value={filled.parameters[p.name] ?? ""}
								error={missing === p.name && t.docs.try.missing}
								onChange={(e) => {
									setMissing(undefined);
									onFilled({ ...filled, parameters: { ...filled.parameters, [p.name]: e.currentTarget.value } });
								}}
							/>
						))}
						{!open && (
							<PasswordInput
								label={t.docs.try.token}
								description={t.docs.try.tokenHelp}
								autoComplete="off"
								inputWrapperOrder={["label", "input", "description"]}
								value={token}
								onChange={(e) => onToken(e.currentTarget.value)}
							/>
						)}
					</div>
					{filled.body !== undefined && (
						<Textarea
							label={t.docs.try.body}
							classNames={{ input: classes.json ?? "" }}
							autosize
							minRows={3}
							maxRows={20}
							spellCheck={false}
							value={filled.body}
							onChange={(e) => onFilled({ ...filled, body: e.currentTarget.value })}
						/>
					)}
					<Group gap="xs">
						<Button type="submit" loading={abort !== undefined}>
							{t.docs.try.send} {route.method}
						</Button>
						{abort && (
							<Button variant="default" onClick={() => abort.abort()}>
								{t.docs.try.stop}
							</Button>
						)}
						<span role="status" className="numbers">
							{shown?.state}
						</span>
					</Group>
					{shown?.text && <CopyBox text={shown.text} what={t.docs.try.answer} />}
				</Stack>
			</form>
			<Confirm
				title={t.docs.try.confirm.title}
				button={t.docs.try.confirm.button(route.method)}
				opened={asking}
				onClose={() => setAsking(false)}
				act={async () => {
					void send(); // its outcome is shown on the page
				}}
			>
				<Stack gap="xs">
					<code className={classes.asked}>
						{route.method} {build(route, filled).url}
					</code>
					<Text size="sm">{who}</Text>
					<Text size="sm">{t.docs.try.confirm.text}</Text>
				</Stack>
			</Confirm>
		</Panel>
	);
}

/** Reads an answer as it comes, and shows JSON in full at its end. */
async function read(answer: Response, show: (text: string) => void) {
	const reader = answer.body?.getReader();
	const decoder = new TextDecoder();
	let text = "";
	while (reader && text.length < mostShown) {
		const { value, done } = await reader.read();
		if (done) break;
		text += decoder.decode(value, { stream: true });
		show(text);
	}
	await reader?.cancel();
	try {
		text = JSON.stringify(JSON.parse(text), null, 2);
	} catch {
		// Not JSON: shown as it is.
	}
	show(text || t.docs.try.empty);
}
