// Confirms the sign-in of a command line. Opening the page, with or without a code in
// its address, changes nothing: only a click on Approve or Deny does.
const $ = (id) => document.getElementById(id);
const views = ["signin", "enter", "ask", "done"];
let asked = null; // what is on the screen to decide on

// A code in the fragment is sent to nobody by the browser; it is taken out of the
// address bar, so that it does not stay in the history.
let linked = "";
try {
	linked = decodeURIComponent(location.hash.slice(1)).slice(0, 24);
} catch {
	// Not a code.
}
history.replaceState(null, "", location.pathname);

function problem(text) {
	$("problem").textContent = text;
	$("problem").hidden = !text;
}

function show(view) {
	for (const v of views) $(v).hidden = v !== view;
	problem("");
	const first = { signin: "email", enter: "code", ask: "deny", done: "again" }[view];
	$(first).focus({ preventScroll: true });
}

// The API speaks in clauses, for whoever puts a name before them.
function sentences(...clauses) {
	return clauses.filter(Boolean).map((c) => c[0].toUpperCase() + c.slice(1) + (/[.!?]$/.test(c) ? "" : ".")).join(" ");
}

class Refused extends Error {
	constructor(status, problem) {
		super(sentences(problem.detail, problem.hint) || "The gateway refused.");
		this.status = status;
	}
}

// Returns the answer of the API, or throws a Refused.
async function call(method, path, body) {
	const init = { method, headers: {} };
	if (body !== undefined) {
		init.headers["Content-Type"] = "application/json";
		init.body = JSON.stringify(body);
	}
	let answer;
	try {
		answer = await fetch(`/api/v1${path}`, init);
	} catch {
		throw new Refused(0, { detail: "The gateway does not answer. Try again." });
	}
	const text = await answer.text();
	const data = text ? JSON.parse(text) : null;
	if (!answer.ok) throw new Refused(answer.status, data ?? {});
	return data;
}

// Runs what a button does: once at a time, with what went wrong on the page.
async function run(button, what) {
	button.disabled = true;
	problem("");
	try {
		await what();
	} catch (e) {
		if (e instanceof Refused && e.status === 401 && !$("as").hidden) {
			signedOut();
			problem("Your sign-in has ended. Sign in again.");
		} else {
			problem(e instanceof Refused ? e.message : "Something went wrong. Reload the page.");
		}
	} finally {
		button.disabled = false;
	}
}

function signedIn(me) {
	$("as-name").textContent = me.user.name || me.user.email;
	$("as-account").textContent = me.account.name;
	$("as").hidden = false;
	show("enter");
	$("code").value = linked;
}

function signedOut() {
	$("as").hidden = true;
	show("signin");
}

function time(text) {
	return new Date(text).toLocaleString(undefined, { dateStyle: "long", timeStyle: "short" });
}

async function look() {
	asked = await call("POST", "/device-authorization/show", { user_code: $("code").value });
	$("ask-code").textContent = asked.user_code;
	$("ask-host").textContent = asked.host;
	$("ask-addr").textContent = asked.remote_addr;
	$("ask-time").textContent = time(asked.created_at);
	$("ask-until").textContent = time(asked.token_expires_at);
	show("ask");
}

async function decide(approve) {
	await call("POST", "/device-authorization/confirm", { user_code: asked.user_code, approve });
	linked = "";
	$("outcome").textContent = approve ? `${asked.host} is signed in. You can close this page.` : `Denied. ${asked.host} gets no access.`;
	$("outcome").className = approve ? "notice good" : "notice";
	show("done");
}

$("signin").addEventListener("submit", (event) => {
	event.preventDefault();
	run(event.submitter ?? $("signin"), async () => {
		const me = await call("POST", "/signin", { email: $("email").value.trim(), password: $("password").value });
		$("password").value = "";
		signedIn(me);
		if (linked) await look();
	});
});

$("enter").addEventListener("submit", (event) => {
	event.preventDefault();
	run(event.submitter ?? $("enter"), look);
});

$("approve").addEventListener("click", () => run($("approve"), () => decide(true)));
$("deny").addEventListener("click", () => run($("deny"), () => decide(false)));
$("again").addEventListener("click", () => {
	$("code").value = "";
	show("enter");
});
$("sign-out").addEventListener("click", () =>
	run($("sign-out"), async () => {
		await call("POST", "/signout");
		signedOut();
	}),
);

try {
	signedIn(await call("GET", "/me"));
	if (linked) await run($("approve"), look);
} catch (e) {
	signedOut();
	if (e instanceof Refused && e.status !== 401) problem(e.message);
}
