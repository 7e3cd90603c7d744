import type { ReactNode } from "react";
import { t } from "../strings";
import classes from "./lone.module.css";

/** A page of one thing, in the middle, without the shell: signing in, what failed. */
export function Lone({ children, wide = false }: { children: ReactNode; wide?: boolean }) {
	return (
		<div className={classes.ground}>
			<main className={classes.card} data-wide={wide || undefined}>
				<p className={classes.brand}>
					<img src="/icon.svg" alt="" width={32} height={32} />
					{t.common.product}
				</p>
				{children}
			</main>
		</div>
	);
}
