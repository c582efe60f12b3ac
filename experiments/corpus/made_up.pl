#!/usr/bin/perl
# A text without a source, for the smoke scale: numbers that add up, sentences of a small grammar,
# nested brackets, and pictures of 8 x 8 pixels. The same bytes on every machine: all arithmetic is
# whole, all chance comes from a generator of its own.
#
#   made_up.pl numbers|sentences|brackets|pixels BYTES
use strict;
use warnings;

binmode STDOUT;
my ($kind, $bytes) = @ARGV;
die "usage: made_up.pl numbers|sentences|brackets|pixels BYTES\n" unless ($bytes // 0) > 0;
my %seed = (numbers => 1, sentences => 2, brackets => 3, pixels => 4);
my $state = $seed{$kind} // die "made_up.pl: no text of kind $kind\n";

# A whole number below `$n` (the generator of ANSI C's example, upper bits).
sub below {
  my ($n) = @_;
  $state = ($state * 1103515245 + 12345) % 2147483648;
  return int($state / 65536) % $n;
}
sub one_of { return $_[below(scalar @_)] }

sub numbers {
  my ($a, $b) = (below(50), below(50));
  return "$a + $b = " . ($a + $b) . ".\n";
}

sub sentences {
  my $who = one_of(qw(cat dog bird child king river));
  my $does = one_of(qw(sees follows finds hears calls));
  my $whom = one_of(qw(moon house stone garden tree road));
  return "the $who $does the " . one_of(qw(old small red quiet)) . " $whom.\n";
}

sub brackets {
  my $open = '';
  my $text = '';
  while (length $text < 24) {
    if (length $open && below(2)) {
      my $last = chop $open;
      $text .= { '(' => ')', '[' => ']', '{' => '}' }->{$last};
    } else {
      my $next = one_of('(', '[', '{');
      $open .= $next;
      $text .= $next;
    }
  }
  $text .= { '(' => ')', '[' => ']', '{' => '}' }->{chop $open} while length $open;
  return "$text\n";
}

# A disc on a slope of grey: 64 bytes.
sub pixels {
  my ($x, $y, $r, $slope) = (below(8), below(8), 1 + below(9), 8 * below(3));
  my $text = '';
  for my $row (0 .. 7) {
    for my $column (0 .. 7) {
      my $inside = ($row - $y)**2 + ($column - $x)**2 <= $r;
      $text .= chr($inside ? 224 : 32 + $slope * $row);
    }
  }
  return $text;
}

my %make = (numbers => \&numbers, sentences => \&sentences, brackets => \&brackets,
  pixels => \&pixels);
my $done = 0;
while ($done < $bytes) {
  my $document = '';
  $document .= $make{$kind}->() while length $document < 256;
  $document .= "\n" if $kind eq 'pixels';
  print $done ? "<|endoftext|>\n" : '', $document;
  $done += length $document;
}
