// Sets the colour scheme before anything is painted. The key and its values are
// those of src/theme.ts.
(() => {
	let chosen = null;
	try {
		chosen = localStorage.getItem("socketxp-color-scheme");
	} catch {}
	const dark = chosen === "dark" || (chosen !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
	document.documentElement.setAttribute("data-mantine-color-scheme", dark ? "dark" : "light");
})();
