export const signIn = {
	title: "Sign in",
	lead: "to reach your devices",
	email: "Email address",
	password: "Password",
	submit: "Sign in",
	endedTitle: "Your session ended",
	ended: (email: string) => `You were signed out. Sign in again as ${email} to go on: nothing you typed is lost.`,
	other: "Sign in as somebody else",
	otherUser: "That is another account. Reload the page to use it.",
	notSetUp: {
		title: "Nobody can sign in yet",
		text: "Open the one-time link that the gateway printed on its console when it started. It makes the first owner's account.",
	},
	noAccount: "No account?",
	signUp: "Sign up",
	forgot:
		"Forgot the password? The gateway's operator can set a new one on its console: socketxp-gateway admin set-password.",
} as const;
