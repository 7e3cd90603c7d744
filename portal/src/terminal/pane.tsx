import { Button, Code, Group, Modal, Text, TextInput, useComputedColorScheme } from "@mantine/core";
import { IconChevronDown, IconChevronUp, IconX } from "@tabler/icons-react";
import { type Ref, useEffect, useImperativeHandle, useReducer, useRef, useState } from "react";
import { api, ask, type Device, sentence } from "../api/client";
import { t } from "../strings";
import { CopyBox } from "../ui/copy";
import { IconButton } from "../ui/iconButton";
import { failed } from "../ui/toast";
import { useAct } from "../ui/useAct";
import { ConnectForm, type Request } from "./connect";
import { Connection, type Ending, type Phase } from "./connection";
import { linesOf, maxPaste, needsLook, plain } from "./paste";
import { Emulator } from "./screen";
import classes from "./terminal.module.css";
import { type Settings, themes } from "./themes";

/** What the toolbar does with the pane that has the focus. */
export interface PaneHandle {
	focus(): void;
	find(): void;
	/** Ends the terminal on the device, if there is one. */
	end(): void;
}

/** One terminal: asks how to connect, shows the emulator, and says what happens to the connection. */
export function Pane({
	device,
	terminalId,
	start,
	byLink,
	settings,
	active,
	onOpened,
	onTitle,
	onFocus,
	onKey,
	onOpenState,
	ref,
}: {
	device: Device;
	/** Of a terminal that lives already, after a reload. */
	terminalId: string | undefined;
	/** Connects at once with it. */
	start: Request | undefined;
	byLink: boolean;
	settings: Settings;
	active: boolean;
	/** A terminal was opened, or there is none any more. */
	onOpened: (id: string | undefined) => void;
	onTitle: (title: string) => void;
	onFocus: () => void;
	onKey: (e: KeyboardEvent) => boolean;
	/** Whether files can be reached through it. */
	onOpenState: (open: boolean) => void;
	ref: Ref<PaneHandle>;
}) {
	const [request, setRequest] = useState<Request | undefined>(start);
	const [ticket, setTicket] = useState<{ id: string; ticket?: string } | undefined>(
		terminalId ? { id: terminalId } : undefined,
	);
	const { busy, error, run } = useAct();
	const [phase, setPhase] = useState<Phase>({ name: "connecting" });
	const [finding, setFinding] = useState(false);
	const [link, setLink] = useState<string>();
	const [pasted, setPasted] = useState<string>();
	const element = useRef<HTMLDivElement>(null);
	const emulator = useRef<Emulator>(undefined);
	const connection = useRef<Connection>(undefined);
	const scheme = useComputedColorScheme("light");
	const theme = themes[settings.theme === "auto" ? (scheme === "dark" ? "dark" : "light") : settings.theme];

	/** A terminal of before, or one that was asked for: what comes later is for the person to say. */
	const started = useRef(terminalId !== undefined);
	const connect = async (r: Request) => {
		started.current = true;
		await run(async () => {
			const opened = await ask(
				api.POST("/api/v1/devices/{id}/terminals", { params: { path: { id: device.id } }, body: r }),
			);
			// What is secret is sent once and forgotten: to connect again asks again.
			const secret = r.sign_in?.method === "password" || r.sign_in?.method === "key";
			setRequest(secret ? { ...r, sign_in: { method: r.sign_in?.method ?? "grant" } } : r);
			setPhase({ name: "connecting" });
			setTicket({ id: opened.id, ticket: opened.ticket });
			onOpened(opened.id);
		});
	};
	const connectNow = useRef(connect);
	connectNow.current = connect;
	useEffect(() => {
		if (start && !started.current && device.status === "online") void connectNow.current(start);
	}, [start, device.status]);

	// The newest of what the emulator calls: it is made once for a terminal.
	const calls = { onTitle, onKey, onOpened, onOpenState, active };
	const latest = useRef(calls);
	latest.current = calls;
	const shown = useRef({ settings, theme });
	shown.current = { settings, theme };

	useEffect(() => {
		if (!ticket || !element.current) return;
		const paste = (raw: string) => {
			const text = plain(raw);
			if (text.length > maxPaste) failed(new Error(t.terminal.tooLong));
			else if (needsLook(text)) setPasted(text);
			else e.terminal.paste(text);
		};
		const box = element.current;
		const e = new Emulator(box, {
			theme: shown.current.theme,
			fontSize: shown.current.settings.fontSize,
			screenReader: shown.current.settings.screenReader,
			onType: (data) => connection.current?.type(data),
			onBinary: (data) => connection.current?.type(data),
			onResize: (columns, rows) => connection.current?.resize(columns, rows), // there is none yet for its first size: see below
			onTitle: (title) => latest.current.onTitle(title),
			onLink: setLink,
			onKey: (k) => {
				if (k.ctrlKey && k.shiftKey && k.code === "KeyC") {
					if (k.type === "keydown" && e.terminal.hasSelection())
						void navigator.clipboard.writeText(e.terminal.getSelection()).catch(failed);
					k.preventDefault();
					return true;
				}
				if (k.ctrlKey && k.shiftKey && k.code === "KeyV") {
					if (k.type === "keydown") void navigator.clipboard.readText().then(paste, failed);
					k.preventDefault();
					return true;
				}
				return latest.current.onKey(k);
			},
		});
		const c = new Connection(ticket.id, ticket.ticket, {
			write: (bytes, taken) => e.terminal.write(bytes, taken),
			reset: () => e.terminal.reset(),
			phase: (p) => {
				setPhase(p);
				latest.current.onOpenState(p.name === "open" || p.name === "reconnecting");
				if (p.name === "ended") latest.current.onOpened(undefined);
				// Whoever types elsewhere meanwhile, a password perhaps, goes on there.
				const at = document.activeElement;
				const mine = at === document.body || box.parentElement?.contains(at);
				if (p.name === "open" && latest.current.active && mine) e.terminal.focus();
			},
			notice: (message) => failed(new Error(message)),
		});
		// Pasting by the mouse or the menu goes by the same question.
		const onPaste = (p: ClipboardEvent) => {
			const text = p.clipboardData?.getData("text/plain");
			if (text === undefined) return;
			p.preventDefault();
			p.stopPropagation();
			paste(text);
		};
		box.addEventListener("paste", onPaste, true);
		c.resize(e.terminal.cols, e.terminal.rows);
		emulator.current = e;
		connection.current = c;
		return () => {
			box.removeEventListener("paste", onPaste, true);
			c.leave();
			e.dispose();
			emulator.current = undefined;
			connection.current = undefined;
		};
	}, [ticket]);

	useEffect(() => {
		const terminal = emulator.current?.terminal;
		if (!terminal) return;
		terminal.options.theme = theme;
		terminal.options.fontSize = settings.fontSize;
		terminal.options.screenReaderMode = settings.screenReader;
		emulator.current?.fitNow();
	}, [theme, settings.fontSize, settings.screenReader]);

	const label = t.terminal.output(device.display_name || device.name);
	// biome-ignore lint/correctness/useExhaustiveDependencies: each ticket has an emulator of its own
	useEffect(() => {
		emulator.current?.terminal.textarea?.setAttribute("aria-label", label);
	}, [label, ticket]);

	useEffect(() => {
		if (active) emulator.current?.terminal.focus();
	}, [active]);

	useImperativeHandle(ref, () => ({
		focus: () => emulator.current?.terminal.focus(),
		find: () => setFinding(true),
		end: () => {
			if (phase.name !== "ended") void connection.current?.close().catch(() => {}); // it ends by itself without us
		},
	}));

	if (!ticket) {
		return (
			<div className={classes.form}>
				<div className={classes.formBox}>
					<ConnectForm device={device} error={error} busy={busy} byLink={byLink} last={request} onConnect={connect} />
				</div>
			</div>
		);
	}
	const again = () => {
		const needsSecret = request?.sign_in?.method === "password" || request?.sign_in?.method === "key";
		setTicket(undefined);
		if (request && !needsSecret) void connect(request);
	};
	return (
		<div
			className={classes.pane}
			data-active={active || undefined}
			style={{ background: theme.background }}
			onFocusCapture={onFocus}
		>
			{finding && <Find emulator={emulator.current} onClose={() => setFinding(false)} />}
			<div className={classes.screen} ref={element} />
			<Bar
				phase={phase}
				busy={busy}
				onRetry={() => connection.current?.retryNow()}
				onAgain={again}
				onHere={() => {
					setPhase({ name: "connecting" });
					setTicket({ id: ticket.id });
					onOpened(ticket.id);
				}}
				onForm={() => setTicket(undefined)}
			/>
			{phase.name === "host-key" && (
				<HostKeyDialog
					phase={phase}
					onTrust={() => connection.current?.trust()}
					onCancel={() => connection.current?.close().catch(failed)}
				/>
			)}
			<Modal
				opened={link !== undefined}
				onClose={() => setLink(undefined)}
				title={<Text fw={600}>{t.terminal.link.title}</Text>}
				closeButtonProps={{ "aria-label": t.common.close }}
			>
				<Text size="sm" mb="xs">
					{t.terminal.link.text}
				</Text>
				<CopyBox text={link ?? ""} what={t.terminal.link.title} wrap />
				<Group justify="flex-end" mt="md" gap="xs">
					<Button variant="default" onClick={() => setLink(undefined)}>
						{t.common.cancel}
					</Button>
					<Button
						component="a"
						href={safeLink(link)}
						target="_blank"
						rel="noopener noreferrer"
						onClick={() => setLink(undefined)}
					>
						{t.terminal.link.open}
					</Button>
				</Group>
			</Modal>
			<Modal
				opened={pasted !== undefined}
				onClose={() => setPasted(undefined)}
				title={<Text fw={600}>{t.terminal.pasteTitle}</Text>}
				closeButtonProps={{ "aria-label": t.common.close }}
			>
				<Text size="sm" mb="xs">
					{t.terminal.pasteText(linesOf(pasted ?? ""))} {t.terminal.large(t.common.number((pasted ?? "").length))}
				</Text>
				<Code block mah={240} className={classes.pasted ?? ""}>
					{pasted}
				</Code>
				<Group justify="flex-end" mt="md" gap="xs">
					<Button variant="default" onClick={() => setPasted(undefined)}>
						{t.common.cancel}
					</Button>
					<Button
						data-autofocus
						onClick={() => {
							if (pasted) emulator.current?.terminal.paste(pasted);
							setPasted(undefined);
							emulator.current?.terminal.focus();
						}}
					>
						{t.terminal.paste}
					</Button>
				</Group>
			</Modal>
		</div>
	);
}

/** http and https alone, whatever the emulator let through. */
function safeLink(url: string | undefined): string {
	try {
		const u = new URL(url ?? "");
		return u.protocol === "https:" || u.protocol === "http:" ? u.href : "about:blank";
	} catch {
		return "about:blank";
	}
}

function Bar({
	phase,
	busy,
	onRetry,
	onAgain,
	onHere,
	onForm,
}: {
	phase: Phase;
	busy: boolean;
	onRetry: () => void;
	onAgain: () => void;
	onHere: () => void;
	onForm: () => void;
}) {
	const [, tick] = useReducer((n: number) => n + 1, 0);
	const counting = phase.name === "reconnecting";
	useEffect(() => {
		if (!counting) return;
		const timer = setInterval(tick, 500);
		return () => clearInterval(timer);
	}, [counting]);
	const now = Date.now();
	switch (phase.name) {
		case "connecting":
		case "signing-in":
			return <output className={classes.bar}>{t.terminal.phases[phase.name]}</output>;
		case "reconnecting": {
			const left = Math.max(0, Math.ceil((phase.since + 60_000 - now) / 1000));
			const next = phase.again ? Math.max(0, Math.ceil((phase.again - now) / 1000)) : 0;
			return (
				<div className={classes.bar} data-tone="warn" role="status">
					<span>
						{t.terminal.phases.reconnecting} <span className="numbers">{t.terminal.phases.again(next)}</span>{" "}
						<span className="numbers">{left > 0 ? t.terminal.phases.left(left) : ""}</span>
					</span>
					<Button size="compact-sm" variant="default" onClick={onRetry}>
						{t.terminal.phases.now}
					</Button>
				</div>
			);
		}
		case "ended":
			return (
				<div
					className={classes.bar}
					data-tone={phase.ending.reason === "exited" && !phase.ending.exit_status ? undefined : "bad"}
					role="status"
				>
					<span>{endingText(phase.ending)}</span>
					<Group gap={6}>
						{phase.ending.reason === "refused" && (
							<Button size="compact-sm" variant="default" onClick={onForm}>
								{t.terminal.change}
							</Button>
						)}
						<Button size="compact-sm" loading={busy} onClick={phase.ending.reason === "taken_over" ? onHere : onAgain}>
							{phase.ending.reason === "taken_over" ? t.terminal.here : t.terminal.reconnect}
						</Button>
					</Group>
				</div>
			);
		default:
			return null;
	}
}

/** What happened, in a sentence; the gateway's own words where there are none of ours. */
export function endingText(e: Ending): string {
	if (e.reason === "exited") return e.signal ? t.terminal.signalled(e.signal) : t.terminal.exited(e.exit_status);
	// What the gateway says of a lost connection is more than we know, if it says something.
	const ours = e.reason === "connection_lost" && e.message ? undefined : t.terminal.ended[e.reason];
	const theirs = [e.message, e.hint].filter((s) => s !== undefined && s !== "").map((s) => sentence(String(s)));
	return [ours, ...(ours && e.reason !== "refused" ? [] : theirs)].filter(Boolean).join(" ");
}

function HostKeyDialog({
	phase,
	onTrust,
	onCancel,
}: {
	phase: Extract<Phase, { name: "host-key" }>;
	onTrust: () => void;
	onCancel: () => void;
}) {
	const changed = phase.key.state === "changed";
	return (
		<Modal
			opened
			onClose={onCancel}
			closeOnClickOutside={false}
			title={<Text fw={600}>{changed ? t.terminal.hostKey.changedTitle : t.terminal.hostKey.newTitle}</Text>}
			closeButtonProps={{ "aria-label": t.common.close }}
			size="lg"
		>
			<Text size="sm">{changed ? t.terminal.hostKey.changedText : t.terminal.hostKey.newText}</Text>
			<dl className={classes.keys}>
				{changed && (
					<>
						<dt>{t.terminal.hostKey.before}</dt>
						<dd className="mono">{phase.key.known_fingerprint}</dd>
					</>
				)}
				<dt>{changed ? t.terminal.hostKey.now : phase.key.type}</dt>
				<dd className="mono">{phase.key.fingerprint}</dd>
			</dl>
			<CopyBox text={t.terminal.hostKey.command(phase.key.type)} what={t.terminal.hostKey.newTitle} />
			<Group justify="flex-end" mt="md" gap="xs">
				<Button variant="default" onClick={onCancel} data-autofocus>
					{t.common.cancel}
				</Button>
				<Button color={changed ? "red" : "brand"} onClick={onTrust}>
					{changed ? t.terminal.hostKey.trustChanged : t.terminal.hostKey.trust}
				</Button>
			</Group>
		</Modal>
	);
}

const decorations = {
	matchOverviewRuler: "#e79a1c",
	activeMatchColorOverviewRuler: "#e79a1c",
	matchBackground: "#7a5a12",
	activeMatchBackground: "#b57d0c",
};

function Find({ emulator, onClose }: { emulator: Emulator | undefined; onClose: () => void }) {
	const [text, setText] = useState("");
	const [found, setFound] = useState({ index: -1, count: 0 });
	useEffect(() => {
		const l = emulator?.search.onDidChangeResults((r) => setFound({ index: r.resultIndex, count: r.resultCount }));
		return () => {
			l?.dispose();
			emulator?.search.clearDecorations();
			emulator?.terminal.focus();
		};
	}, [emulator]);
	const go = (back: boolean, value = text) => {
		if (!value) {
			emulator?.search.clearDecorations();
			setFound({ index: -1, count: 0 });
		} else if (back) emulator?.search.findPrevious(value, { decorations });
		else emulator?.search.findNext(value, { decorations });
	};
	return (
		<search className={classes.find}>
			<TextInput
				size="xs"
				w={220}
				aria-label={t.terminal.findPlaceholder}
				placeholder={t.terminal.findPlaceholder}
				value={text}
				autoFocus
				onChange={(e) => {
					setText(e.currentTarget.value);
					go(false, e.currentTarget.value);
				}}
				onKeyDown={(e) => {
					if (e.key === "Escape") onClose();
					if (e.key === "Enter") go(e.shiftKey);
				}}
			/>
			<span className={`numbers ${classes.count}`} role="status">
				{text ? t.terminal.found(found.index, found.count) : ""}
			</span>
			<IconButton size={26} label={t.terminal.findPrevious} onClick={() => go(true)}>
				<IconChevronUp size={16} />
			</IconButton>
			<IconButton size={26} label={t.terminal.findNext} onClick={() => go(false)}>
				<IconChevronDown size={16} />
			</IconButton>
			<IconButton size={26} label={t.common.close} onClick={onClose}>
				<IconX size={16} />
			</IconButton>
		</search>
	);
}
