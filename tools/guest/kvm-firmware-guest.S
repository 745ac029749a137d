/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Firmware guest for -accel kvm on hosts where only real mode runs fast enough (no EPT, nested).
 *
 * Writes the words of 16 pages in turn with a running number and checks before each write that the word
 * still holds the number of one round ago. '.' goes to the first serial port after each round; once a
 * word was wrong, '!' does, for ever.
 */
	.set	SEGMENT, 0x2000
	.set	ROUND, 0x10000
	.set	SERIAL, 0x3f8

	.code16
start:
	cli
	movw	$SEGMENT, %ax
	movw	%ax, %es
	movw	$SERIAL, %dx
	movb	$'.', %cl
	xorl	%esi, %esi
clear:
	movl	%esi, %es:(%si)
	addl	$4, %esi
	testw	%si, %si
	jnz	clear
	/* The words now hold their own offsets: the numbers of round 0. */
round:
	movl	%esi, %eax
	subl	$ROUND, %eax
	cmpl	%eax, %es:(%si)
	jne	broken
write:
	movl	%esi, %es:(%si)
	addl	$4, %esi
	testw	%si, %si
	jnz	round
	movb	%cl, %al
	outb	%al, %dx
	jmp	round
broken:
	movb	$'!', %cl
	jmp	write

	.org	0xfff0
	ljmp	$0xf000, $0		/* the reset vector */
	.org	0xffff
	.byte	0
