import type { ITheme } from "@xterm/xterm";

/** The colours of terminals. Each has a contrast of at least 4.5 between text and ground. */
export const themes = {
	dark: {
		background: "#0b0e13",
		foreground: "#d9dee7",
		cursor: "#6692f7",
		cursorAccent: "#0b0e13",
		selectionBackground: "#2f4a7d",
		black: "#2a303c",
		red: "#f2776f",
		green: "#63c98b",
		yellow: "#e5b567",
		blue: "#7aa5ff",
		magenta: "#c79bf2",
		cyan: "#5cc5cf",
		white: "#c7cdd8",
		brightBlack: "#7d8798",
		brightRed: "#ff9d96",
		brightGreen: "#8be0ab",
		brightYellow: "#f5cf8e",
		brightBlue: "#a3c1ff",
		brightMagenta: "#dbbcf8",
		brightCyan: "#8adde5",
		brightWhite: "#ffffff",
	},
	light: {
		background: "#ffffff",
		foreground: "#1c2330",
		cursor: "#215bd0",
		cursorAccent: "#ffffff",
		selectionBackground: "#c9dafc",
		black: "#1c2330",
		red: "#b3261e",
		green: "#12703a",
		yellow: "#8a5a00",
		blue: "#1d4fbf",
		magenta: "#7a2fa8",
		cyan: "#0b6b76",
		white: "#5b6578",
		brightBlack: "#667085",
		brightRed: "#c93a32",
		brightGreen: "#177d43",
		brightYellow: "#976300",
		brightBlue: "#2f6fed",
		brightMagenta: "#8e44bd",
		brightCyan: "#0f7c88",
		brightWhite: "#485164",
	},
	solarized: {
		background: "#002b36",
		foreground: "#a9b7b8",
		cursor: "#93a1a1",
		cursorAccent: "#002b36",
		selectionBackground: "#0f4b5a",
		black: "#073642",
		red: "#ef6b68",
		green: "#9bb000",
		yellow: "#c99a12",
		blue: "#4ea6e6",
		magenta: "#e4649b",
		cyan: "#3bb5ab",
		white: "#eee8d5",
		brightBlack: "#7b9197",
		brightRed: "#f08254",
		brightGreen: "#93a1a1",
		brightYellow: "#b6c0c0",
		brightBlue: "#9fb2b4",
		brightMagenta: "#9a9fe0",
		brightCyan: "#b9c4c4",
		brightWhite: "#fdf6e3",
	},
	contrast: {
		background: "#000000",
		foreground: "#ffffff",
		cursor: "#ffff00",
		cursorAccent: "#000000",
		selectionBackground: "#0050c8",
		black: "#000000",
		red: "#ff8080",
		green: "#70ff70",
		yellow: "#ffff70",
		blue: "#9dbdff",
		magenta: "#ff9dff",
		cyan: "#70ffff",
		white: "#ffffff",
		brightBlack: "#c0c0c0",
		brightRed: "#ffa8a8",
		brightGreen: "#a0ffa0",
		brightYellow: "#ffffa8",
		brightBlue: "#c0d4ff",
		brightMagenta: "#ffc0ff",
		brightCyan: "#a8ffff",
		brightWhite: "#ffffff",
	},
} as const satisfies Record<string, ITheme>;

export type ThemeName = keyof typeof themes | "auto";
export const themeNames: readonly ThemeName[] = ["auto", "dark", "light", "solarized", "contrast"];

/** What the reader has chosen for all terminals. */
export interface Settings {
	theme: ThemeName;
	/** In px. */
	fontSize: number;
	screenReader: boolean;
}

const key = "socketxp-terminal";
export const fontSizes = { min: 8, max: 32, usual: 14 };

export function loadSettings(): Settings {
	const usual: Settings = { theme: "auto", fontSize: fontSizes.usual, screenReader: false };
	try {
		const s = JSON.parse(localStorage.getItem(key) ?? "{}") as Partial<Settings>;
		return {
			theme: s.theme && themeNames.includes(s.theme) ? s.theme : usual.theme,
			fontSize: clampFont(Number(s.fontSize ?? usual.fontSize)),
			screenReader: s.screenReader === true,
		};
	} catch {
		return usual;
	}
}

export function saveSettings(s: Settings) {
	try {
		localStorage.setItem(key, JSON.stringify(s));
	} catch {
		// Without storage they last as long as the page.
	}
}

export const clampFont = (px: number) =>
	Number.isFinite(px) ? Math.min(Math.max(Math.round(px), fontSizes.min), fontSizes.max) : fontSizes.usual;
