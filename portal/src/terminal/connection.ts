import { ApiError, api, ask, type Schemas } from "../api/client";

export type HostKey = Schemas["TerminalHostKey"];

/** Why a terminal is over, as the gateway says it. */
export interface Ending {
	reason: string;
	message: string;
	hint?: string;
	exit_status?: number;
	signal?: string;
}

/** How a terminal stands, for whoever shows it. */
export type Phase =
	| { name: "connecting" }
	| { name: "host-key"; key: HostKey }
	| { name: "signing-in" }
	| { name: "open" }
	/** The socket is lost; the gateway keeps the terminal for 60 s. `again` is when the next attempt is due, 0 while it is made. */
	| { name: "reconnecting"; since: number; again: number }
	| { name: "ended"; ending: Ending };

/** What shows the terminal. */
export interface Screen {
	/** Takes output in and calls taken when it was drawn. */
	write(bytes: Uint8Array, taken: () => void): void;
	/** Output before this was lost: what is shown is to be cleared. */
	reset(): void;
	phase(phase: Phase): void;
	notice(message: string): void;
}

/** How long the gateway keeps a terminal that nobody looks at, in ms. */
const kept = 60_000;

/** The gateway stops reading at 1 MiB that was not acknowledged; a word each 128 KiB keeps it going. */
const ackEvery = 128 << 10;

/** Bytes that are typed or pasted are sent in messages of at most so many; the gateway takes 64 KiB. */
const maxMessage = 32 << 10;

/**
 * A terminal that lives on the gateway, seen through a WebSocket. It reconnects by
 * itself where it was, until the gateway has given it up. Close ends the terminal.
 */
export class Connection {
	readonly id: string;
	private readonly screen: Screen;
	private socket: WebSocket | undefined;
	private phaseNow: Phase = { name: "connecting" };
	/** Output bytes received so far, and those that the screen has drawn. */
	private received = 0;
	private drawn = 0;
	private acknowledged = 0;
	private lostAt = 0;
	private attempts = 0;
	/** Of the newest attempt to open a socket: an older one that comes late is nothing any more. */
	private attempt = 0;
	private timer: ReturnType<typeof setTimeout> | undefined;
	private size: { columns: number; rows: number } | undefined;
	private over = false;

	/** Attaches to the terminal; without a ticket it asks for one. */
	constructor(id: string, ticket: string | undefined, screen: Screen) {
		this.id = id;
		this.screen = screen;
		addEventListener("online", this.retryNow);
		if (ticket) this.open(ticket);
		else void this.reopen();
	}

	/** Sends what was typed. It is lost while there is no socket, as on a dead line; the screen says so. */
	type(data: string | Uint8Array) {
		if (this.phaseNow.name !== "open" || this.socket?.readyState !== WebSocket.OPEN) return;
		const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
		for (let i = 0; i < bytes.length; i += maxMessage) this.socket.send(bytes.slice(i, i + maxMessage));
	}

	resize(columns: number, rows: number) {
		this.size = { columns, rows };
		this.say({ type: "resize", columns, rows });
	}

	/** Accepts the host key that is shown. */
	trust() {
		this.say({ type: "trust" });
		this.set({ name: "signing-in" });
	}

	/** Ends the terminal on the device. */
	async close() {
		this.end({ reason: "closed", message: "" });
		await ask(api.DELETE("/api/v1/terminals/{id}", { params: { path: { id: this.id } } }));
	}

	/** Lets go of the terminal, which lives on for a while. */
	leave() {
		this.over = true;
		clearTimeout(this.timer);
		removeEventListener("online", this.retryNow);
		this.socket?.close();
		this.socket = undefined;
	}

	/** Tries again at once. */
	readonly retryNow = () => {
		if (this.phaseNow.name !== "reconnecting") return;
		clearTimeout(this.timer);
		void this.reopen();
	};

	private set(phase: Phase) {
		this.phaseNow = phase;
		this.screen.phase(phase);
	}

	private say(message: object) {
		if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
	}

	private open(ticket: string) {
		const url = new URL(`/api/v1/terminals/${encodeURIComponent(this.id)}/attach`, location.href);
		url.protocol = "wss:";
		const socket = new WebSocket(url, ["socketxp-terminal.1", `ticket.${ticket}`]);
		socket.binaryType = "arraybuffer";
		this.socket?.close();
		this.socket = socket;
		socket.onopen = () => {
			if (socket !== this.socket) return;
			this.say({ type: "attach", from: this.received });
			if (this.size) this.say({ type: "resize", ...this.size });
		};
		socket.onmessage = (m) => {
			if (socket !== this.socket) return;
			if (typeof m.data === "string") this.told(m.data);
			else this.output(new Uint8Array(m.data as ArrayBuffer));
		};
		socket.onclose = () => {
			if (socket !== this.socket || this.over || this.phaseNow.name === "ended") return;
			this.socket = undefined;
			this.lost();
		};
	}

	private output(bytes: Uint8Array) {
		this.received += bytes.length;
		this.screen.write(bytes, () => {
			this.drawn += bytes.length;
			if (this.drawn - this.acknowledged >= ackEvery || this.drawn === this.received) {
				this.acknowledged = this.drawn;
				this.say({ type: "ack", bytes: this.drawn });
			}
		});
	}

	private told(text: string) {
		const m = parse(text);
		switch (m?.type) {
			case "state":
				this.state(m);
				break;
			case "from":
				if (typeof m.offset === "number" && m.offset !== this.received) {
					// The gateway keeps the last 1 MiB: what is older than that is gone.
					this.screen.reset();
					this.received = this.drawn = this.acknowledged = m.offset;
				}
				break;
			case "notice":
				this.screen.notice(String(m.message ?? ""));
				break;
		}
	}

	private state(m: Message) {
		this.lostAt = 0;
		this.attempts = 0;
		switch (m.state) {
			case "connecting":
			case "signing-in":
				this.set({ name: m.state });
				break;
			case "host-key":
				if (m.host_key) this.set({ name: "host-key", key: m.host_key as HostKey });
				break;
			case "open":
				this.set({ name: "open" });
				break;
			case "ended":
				this.end({
					reason: String(m.reason ?? ""),
					message: String(m.message ?? ""),
					...(m.hint ? { hint: String(m.hint) } : {}),
					...(typeof m.exit_status === "number" ? { exit_status: m.exit_status } : {}),
					...(m.signal ? { signal: String(m.signal) } : {}),
				});
				break;
		}
	}

	private end(ending: Ending) {
		this.set({ name: "ended", ending });
		this.leave();
	}

	private lost() {
		this.lostAt ||= Date.now();
		const wait = Math.min(250 * 2 ** this.attempts, 5000) * (0.75 + Math.random() / 2);
		this.attempts++;
		this.set({ name: "reconnecting", since: this.lostAt, again: Date.now() + wait });
		this.timer = setTimeout(() => void this.reopen(), wait);
	}

	private async reopen() {
		const mine = ++this.attempt;
		if (this.lostAt) this.set({ name: "reconnecting", since: this.lostAt, again: 0 });
		try {
			const { ticket } = await ask(api.POST("/api/v1/terminals/{id}/ticket", { params: { path: { id: this.id } } }));
			if (!this.over && mine === this.attempt) this.open(ticket);
		} catch (e) {
			if (this.over || mine !== this.attempt) return;
			const gone = e instanceof ApiError && (e.status === 404 || e.status === 403);
			const tooLate = this.lostAt > 0 && Date.now() - this.lostAt > kept + 15_000;
			if (gone || tooLate) this.end({ reason: "connection_lost", message: "" });
			else this.lost();
		}
	}
}

interface Message {
	type?: unknown;
	state?: unknown;
	host_key?: unknown;
	reason?: unknown;
	message?: unknown;
	hint?: unknown;
	exit_status?: unknown;
	signal?: unknown;
	offset?: unknown;
}

function parse(text: string): Message | undefined {
	try {
		const m: unknown = JSON.parse(text);
		return typeof m === "object" && m !== null ? m : undefined;
	} catch {
		return undefined;
	}
}
