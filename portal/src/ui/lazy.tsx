import { type ReactNode, useLayoutEffect, useRef, useState } from "react";
import { flushSync } from "react-dom";
import classes from "./lazy.module.css";

/**
 * For what a table has hundreds of and what is costly to keep ready: tooltips. It is
 * drawn bare, and ready as soon as somebody comes near it with the mouse or by
 * keyboard. Bare and ready must look alike; the focus goes from one to the other.
 */
export function Lazy({ children }: { children: (ready: boolean) => ReactNode }) {
	const [ready, setReady] = useState(false);
	const box = useRef<HTMLSpanElement>(null);
	const focus = useRef(false);
	useLayoutEffect(() => {
		if (ready && focus.current) box.current?.querySelector<HTMLElement>("a, button")?.focus();
	}, [ready]);
	// Before the event is over: an element that is replaced between a press and its
	// release gets no click.
	const makeReady = (withFocus: boolean) => {
		focus.current = withFocus;
		flushSync(() => setReady(true));
	};
	return (
		// biome-ignore lint/a11y/noStaticElementInteractions: it only watches over what is inside
		<span
			ref={box}
			className={classes.lazy}
			onPointerEnter={(e) => {
				// A finger taps what it touches: another element in its place would get nothing. Nor would one under a press.
				if (e.pointerType !== "mouse" || e.buttons !== 0 || ready) return;
				makeReady(box.current?.contains(document.activeElement) ?? false);
			}}
			onFocus={(e) => {
				if (!ready && e.target.matches(":focus-visible")) makeReady(true);
			}}
		>
			{children(ready)}
		</span>
	);
}
