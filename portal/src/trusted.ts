// The content security policy makes the browser refuse text where markup or code
// is expected, unless this policy lets it through. The component library writes
// style sheets by innerHTML; what has neither "<" nor "&" can't become anything else.

interface Policies {
	createPolicy(name: string, rules: { createHTML: (text: string) => string }): unknown;
}

const policies = (globalThis as { trustedTypes?: Policies }).trustedTypes;
policies?.createPolicy("default", {
	createHTML(text) {
		if (/[<&]/.test(text)) throw new TypeError("text was about to become markup");
		return text;
	},
});

/** What a style element must carry to count; the gateway makes a new one for each page. */
export const styleNonce = document.querySelector<HTMLElement>('meta[property="csp-nonce"]')?.nonce ?? "";

// What keeps the page behind a dialog from scrolling asks for the nonce by this name.
(globalThis as { __webpack_nonce__?: string }).__webpack_nonce__ = styleNonce;
