import { ActionIcon, Tooltip } from "@mantine/core";
import { useClipboard } from "@mantine/hooks";
import { IconCheck, IconCopy } from "@tabler/icons-react";
import { t } from "../strings";
import classes from "./copy.module.css";
import { failed } from "./toast";

/** An icon that copies text. `what` names it for screen readers. */
export function CopyButton({ text, what, size = "sm" }: { text: string; what: string; size?: "sm" | "md" }) {
	const clipboard = useClipboard({ timeout: 1500 });
	const label = clipboard.copied ? t.common.copied : `${t.common.copy} ${what}`;
	return (
		<Tooltip label={label}>
			<ActionIcon
				variant="subtle"
				color={clipboard.copied ? "green" : "gray"}
				size={size === "sm" ? 26 : 32}
				aria-label={label}
				onClick={(e) => {
					e.stopPropagation();
					clipboard.copy(text);
					if (!navigator.clipboard) failed(new Error(t.common.copyFailed));
				}}
			>
				{clipboard.copied ? <IconCheck size={15} /> : <IconCopy size={15} />}
			</ActionIcon>
		</Tooltip>
	);
}

/** Text in a box of its own with a copy icon: a command, a token, a key. */
export function CopyBox({ text, what, wrap = false }: { text: string; what: string; wrap?: boolean }) {
	return (
		<div className={classes.box}>
			{/* biome-ignore lint/a11y/noNoninteractiveTabindex: a box that scrolls must be reached by keyboard (axe: scrollable-region-focusable) */}
			<pre className={classes.text} data-wrap={wrap || undefined} tabIndex={0}>
				{text}
			</pre>
			<CopyButton text={text} what={what} size="md" />
		</div>
	);
}
