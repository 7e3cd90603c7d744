// Makes the first owner. The one-time secret is in the fragment of the address,
// which browsers send to nobody; it is taken out of the address bar at once.
const $ = (id) => document.getElementById(id);
const secret = decodeURIComponent(location.hash.slice(1));
history.replaceState(null, "", location.pathname);

function problem(text) {
	$("problem").textContent = text;
	$("problem").hidden = !text;
}

async function start() {
	let needed = true;
	try {
		needed = (await (await fetch("/api/v1/setup")).json()).needed;
	} catch {
		problem("The gateway does not answer. Reload this page when it runs.");
		return;
	}
	if (!needed) {
		$("form").hidden = true;
		$("lead").textContent = "This gateway has been set up already. Ask its owner for an account.";
	} else if (!secret) {
		$("form").hidden = true;
		$("lead").textContent = "This page needs the whole link that the gateway printed on its console, with what follows the #.";
	} else {
		$("account").focus();
	}
}

$("show").addEventListener("change", () => {
	$("password").type = $("show").checked ? "text" : "password";
});

$("form").addEventListener("submit", async (event) => {
	event.preventDefault();
	problem("");
	const body = { secret, account: $("account").value.trim(), email: $("email").value.trim(), password: $("password").value };
	if (!body.account) return wrong("account", "The account has no name.");
	if (!$("email").checkValidity()) return wrong("email", "The email address is not valid.");
	if ([...body.password].length < 12) return wrong("password", "The password is too short: use 12 characters or more.");
	$("submit").disabled = true;
	try {
		const answer = await fetch("/api/v1/setup", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
		if (answer.ok) {
			$("form").hidden = true;
			$("lead").hidden = true;
			$("done").hidden = false;
			$("password").value = "";
			return;
		}
		const p = await answer.json();
		problem([p.detail, p.hint].filter(Boolean).join(". "));
	} catch {
		problem("The gateway does not answer. Nothing was lost: try again.");
	} finally {
		$("submit").disabled = false;
	}
});

function wrong(field, text) {
	problem(text);
	$(field).focus();
}

start();
