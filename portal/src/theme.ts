import { createTheme, localStorageColorSchemeManager, type MantineColorsTuple } from "@mantine/core";

/** The brand's blue; 6 is the one of the icon. */
const brand: MantineColorsTuple = [
	"#eef4ff",
	"#dbe6fe",
	"#b8cffd",
	"#8fb2fb",
	"#6692f7",
	"#4a7df3",
	"#2f6fed",
	"#215bd0",
	"#1a4aab",
	"#153b88",
];

/** White on 6 and 7 has a contrast of more than 4.5. */
const red: MantineColorsTuple = [
	"#fff1f0",
	"#ffdedb",
	"#ffb9b3",
	"#fb8f87",
	"#f2635a",
	"#e0453b",
	"#cf352b",
	"#c0271f",
	"#a01f18",
	"#7d1812",
];

/** Neutral greys with a little blue, for both schemes. */
const gray: MantineColorsTuple = [
	"#f8f9fb",
	"#f1f3f6",
	"#e6e9ee",
	"#d6dae2",
	"#b6bdc9",
	"#8b94a5",
	"#667085",
	"#485164",
	"#2b3242",
	"#171c28",
];

const dark: MantineColorsTuple = [
	"#e6e9ef",
	"#b9c0cc",
	"#98a1b2",
	"#6d7789",
	"#3b4353",
	"#2a303c",
	"#1c212b",
	"#14181f",
	"#0e1116",
	"#090b0f",
];

/** Where the chosen scheme is kept; public/scheme.js reads it before the first paint. */
export const colorSchemeManager = localStorageColorSchemeManager({ key: "socketxp-color-scheme" });

/** The header of a dialog is not that of the page. */
const noBanner = { header: { role: "presentation" } };

export const theme = createTheme({
	colors: { brand, red, gray, dark },
	primaryColor: "brand",
	primaryShade: { light: 7, dark: 6 },
	autoContrast: true,
	luminanceThreshold: 0.36,
	fontFamily: '"Inter Variable", system-ui, -apple-system, "Segoe UI", Roboto, sans-serif',
	fontFamilyMonospace: '"JetBrains Mono Variable", ui-monospace, "SF Mono", Menlo, Consolas, monospace',
	defaultRadius: "md",
	cursorType: "pointer",
	respectReducedMotion: true,
	headings: {
		fontWeight: "600",
		sizes: {
			h1: { fontSize: "1.375rem", lineHeight: "1.3" },
			h2: { fontSize: "1.0625rem", lineHeight: "1.4" },
			h3: { fontSize: "0.9375rem", lineHeight: "1.4" },
		},
	},
	fontSizes: { xs: "0.75rem", sm: "0.8125rem", md: "0.875rem", lg: "1rem", xl: "1.125rem" },
	components: {
		Button: { defaultProps: { size: "sm" } },
		TextInput: { defaultProps: { size: "sm" } },
		PasswordInput: { defaultProps: { size: "sm" } },
		Select: { defaultProps: { size: "sm", allowDeselect: false } },
		Tooltip: { defaultProps: { openDelay: 300, withArrow: false, events: { hover: true, focus: true, touch: true } } },
		Modal: {
			defaultProps: {
				centered: true,
				radius: "lg",
				overlayProps: { backgroundOpacity: 0.45, blur: 2 },
				attributes: noBanner,
			},
		},
		Drawer: { defaultProps: { overlayProps: { backgroundOpacity: 0.45, blur: 2 }, attributes: noBanner } },
		Menu: { defaultProps: { shadow: "md", radius: "md", position: "bottom-end" } },
	},
});
