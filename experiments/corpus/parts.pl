#!/usr/bin/perl
# Texts to documents, parted by the byte 0x1e, for experiments/demo/documents.pl pack:
#
#   parts.pl chapters    texts parted by lines "<|endoftext|>" on stdin: cut at heads "## ..." and, as
#                        long as a piece is above 24,000 bytes, at the next empty line
#   parts.pl wordnet     WordNet's data files on stdin: "word, word: gloss", fifty entries a document
use strict;
use warnings;

binmode STDIN;
binmode STDOUT;
my $kind = shift @ARGV // '';
my $most = 24_000;

sub document {
  my ($text) = @_;
  $text =~ s/\r//g;
  $text =~ s/^\s+|\s+$//g;
  print "$text\n\x1e" if length $text;
}

sub chapters {
  my $text = '';
  while (my $line = <STDIN>) {
    my $end = $line =~ /^<\|endoftext\|>\s*$/;
    my $head = $line =~ /^## / && length $text > 1000;
    my $full = $line =~ /^\s*$/ && length $text > $most;
    if ($end || $head || $full) {
      document($text);
      $text = '';
    }
    $text .= $line unless $end;
  }
  document($text);
}

sub wordnet {
  my ($text, $entries) = ('', 0);
  while (<STDIN>) {
    /^\d{8} \d\d \w ([0-9a-f]{2}) (.*?) \| (.*)$/ or next;
    my ($count, $gloss) = (hex $1, $3);
    my @fields = split / /, $2;
    my @words = map { my $w = $fields[2 * $_]; $w =~ tr/_/ /; $w } 0 .. $count - 1;
    $gloss =~ s/\s+$//;
    $text .= join(', ', @words) . ": $gloss\n";
    next if ++$entries % 50;
    document($text);
    $text = '';
  }
  document($text);
}

if ($kind eq 'chapters') { chapters() }
elsif ($kind eq 'wordnet') { wordnet() }
else { die "usage: parts.pl chapters|wordnet\n" }
