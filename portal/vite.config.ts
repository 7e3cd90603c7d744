import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// The gateway puts a fresh nonce in place of this text in each answer of index.html
// (internal/gateway/pages.go).
const nonce = "CSP-NONCE";

// Where `npm start` sends what is not the portal's: a gateway on this machine, as
// `make run` starts it.
const gateway = process.env.SOCKETXP_GATEWAY ?? "https://localhost:8443";

export default defineConfig({
	plugins: [react()],
	html: { cspNonce: nonce },
	build: {
		target: "es2022",
		modulePreload: { polyfill: false }, // it would be an inline script
		assetsInlineLimit: 0, // data: addresses are not in the content security policy
		chunkSizeWarningLimit: 1000,
	},
	server: { proxy: { "/api": { target: gateway, secure: false, ws: true } } },
	test: {
		environment: "happy-dom",
		include: ["src/**/*.test.{ts,tsx}"],
		setupFiles: ["src/test/setup.ts"],
		restoreMocks: true,
	},
});
