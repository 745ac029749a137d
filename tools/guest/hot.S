/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Firmware guest that writes 200 pages in turn without end, and checks them after every pass.
 *
 * Given as -bios: no disk, no kernel. Every pass raises the first word of each page and then compares
 * all of them with the pass number, which is in a register only: RAM and CPU state must come from the
 * same instant. '.' goes to the first serial port every REPORT passes; once a word was wrong, '!' does,
 * for ever. The pages are so hot that none of them ever looks clean to a tracer.
 */
	.set	ROM, 0xf0000
	.set	PAGES, 200
	.set	FIRST, 0x100000
	.set	LAST, FIRST + PAGES * 4096
	.set	REPORT, 0x4000
	.set	SERIAL, 0x3f8

	.code16
start:
	cli
	inb	$0x92, %al		/* A20 */
	orb	$2, %al
	outb	%al, $0x92
	lgdtl	%cs:(gdtr - start)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$8, $(protected - start + ROM)

	.code32
protected:
	movw	$16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$SERIAL, %edx
	xorl	%ebx, %ebx		/* pass number */
	movl	$'.', %ecx
	movl	$FIRST, %edi
clear:
	movl	%ebx, (%edi)
	addl	$4096, %edi
	cmpl	$LAST, %edi
	jb	clear
pass:
	incl	%ebx
	movl	$FIRST, %edi
write:
	incl	(%edi)
	addl	$4096, %edi
	cmpl	$LAST, %edi
	jb	write
	movl	$FIRST, %edi
check:
	cmpl	%ebx, (%edi)
	jne	broken
next:
	addl	$4096, %edi
	cmpl	$LAST, %edi
	jb	check
	testl	$(REPORT - 1), %ebx
	jnz	pass
	movl	%ecx, %eax
	outb	%al, %dx
	jmp	pass
broken:
	movl	$'!', %ecx
	jmp	next

	.align	8
gdt:
	.quad	0
	.quad	0x00cf9a000000ffff	/* code, flat */
	.quad	0x00cf92000000ffff	/* data, flat */
gdtr:
	.word	gdtr - gdt - 1
	.long	gdt - start + ROM

	.org	0xfff0
	.code16
	ljmp	$0xf000, $0		/* the reset vector */
	.org	0xffff
	.byte	0
