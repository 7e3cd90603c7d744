import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { WebglAddon } from "@xterm/addon-webgl";
import { type ITheme, Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { styleNonce } from "../trusted";

// The emulator writes style elements and knows no nonce, without which the content
// security policy takes none of them.
const create = document.createElement;
document.createElement = function (this: Document, name: string, options?: ElementCreationOptions) {
	const element = create.call(this, name, options) as HTMLElement;
	if (name === "style") element.nonce = styleNonce;
	return element;
} as typeof document.createElement;

/** The longest title that a program may give its terminal. */
export const maxTitle = 256;

export interface EmulatorOptions {
	theme: ITheme;
	fontSize: number;
	screenReader: boolean;
	onType: (data: string) => void;
	onBinary: (data: Uint8Array) => void;
	onResize: (columns: number, rows: number) => void;
	onTitle: (title: string) => void;
	/** A link of the program's was clicked (OSC 8, or none): nothing is opened without a word. */
	onLink: (url: string) => void;
	/** The keys of the page around it; true if the page takes the key. */
	onKey: (e: KeyboardEvent) => boolean;
}

/** The emulator in an element, which must be in the document. */
export class Emulator {
	readonly terminal: Terminal;
	readonly search = new SearchAddon({ highlightLimit: 1000 });
	private readonly fit = new FitAddon();
	private readonly observer: ResizeObserver;

	constructor(element: HTMLElement, o: EmulatorOptions) {
		const t = new Terminal({
			allowProposedApi: true, // the search's decorations are proposed API
			fontFamily: '"JetBrains Mono Variable", ui-monospace, Menlo, Consolas, monospace',
			fontSize: o.fontSize,
			lineHeight: 1.2,
			cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
			scrollback: 10_000,
			theme: o.theme,
			minimumContrastRatio: 4.5,
			screenReaderMode: o.screenReader,
			macOptionIsMeta: true,
			rightClickSelectsWord: false,
			// What a device writes is not trusted: a window has no operation that
			// reports, and what looks like a link is asked about (W-12). OSC 52 is in no
			// addon that is loaded.
			windowOptions: {},
			linkHandler: {
				allowNonHttpProtocols: false,
				activate: (_e, url) => o.onLink(url),
			},
		});
		this.terminal = t;
		t.loadAddon(this.fit);
		t.loadAddon(this.search);
		t.open(element);
		try {
			const gl = new WebglAddon();
			gl.onContextLoss(() => gl.dispose()); // the slower renderer takes over
			t.loadAddon(gl);
		} catch {
			// Without WebGL it is drawn as elements.
		}
		// Nor does it answer what its settings are (DECRQSS).
		t.parser.registerDcsHandler({ intermediates: "$", final: "q" }, () => true);
		t.onData(o.onType);
		t.onBinary((s) => o.onBinary(Uint8Array.from(s, (c) => c.charCodeAt(0) & 0xff)));
		t.onResize((size) => o.onResize(size.cols, size.rows));
		t.onTitleChange((title) => o.onTitle(title.slice(0, maxTitle)));
		t.attachCustomKeyEventHandler((e) => !o.onKey(e));
		this.observer = new ResizeObserver(() => this.fitNow());
		this.observer.observe(element);
		this.fitNow();
	}

	/** Sets its size to that of its element. */
	fitNow() {
		const e = this.terminal.element?.parentElement;
		if (e && e.clientWidth > 0 && e.clientHeight > 0) this.fit.fit(); // a hidden one keeps its size
	}

	dispose() {
		this.observer.disconnect();
		this.terminal.dispose();
	}
}
