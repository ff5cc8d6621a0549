<?php

use Illuminate\Database\Migrations\Migration;
use Illuminate\Database\Schema\Blueprint;
use Illuminate\Support\Facades\Schema;

return new class extends Migration
{
    public function up(): void
    {
        Schema::create('personal_access_tokens', function (Blueprint $columns) {
            $columns->id();
            $columns->morphs('tokenable');
            $columns->string('name');
            // SHA-256 in hex.
            $columns->char('token', 64)->unique();
            foreach (['abilities' => 'text', 'last_used_at' => 'timestamp', 'expires_at' => 'timestamp'] as $name => $type) {
                $columns->$type($name)->nullable();
            }
            $columns->timestamps();
        });
    }
};
